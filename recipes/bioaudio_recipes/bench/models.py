"""Language models of one size with the same weights: ours and those of other packages."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bioaudio_mamba import CausalLM, MambaConfig
from bioaudio_recipes.bench.plain_transformers import modeling
from bioaudio_recipes.bench.shape import Shape

VOCABULARY = 16
NEVER_NARROWED = ("A_log", "D")
"""Parameters that mamba_ssm keeps in float32 whatever the dtype of its model."""

Model = TypeVar("Model", bound=nn.Module)


def our_model(shape: Shape) -> CausalLM:
    """Ours, its weights drawn with the shape's seed; a tied head."""
    config = MambaConfig(
        d_model=shape.d_model, n_layer=shape.n_layer, d_state=shape.d_state, vocab_size=VOCABULARY
    )
    return CausalLM(config, shape.generator(0, "cpu")).to(shape.device)


def mamba_ssm_model(shape: Shape, dtype: torch.dtype = torch.float32) -> Any:
    """mamba_ssm's MambaLMHeadModel: `model(tokens).logits`."""
    settings = importlib.import_module("mamba_ssm.models.config_mamba").MambaConfig(
        d_model=shape.d_model,
        n_layer=shape.n_layer,
        vocab_size=VOCABULARY,
        ssm_cfg={"d_state": shape.d_state},
    )
    package = importlib.import_module("mamba_ssm.models.mixer_seq_simple")
    model = package.MambaLMHeadModel(settings, device=shape.device, dtype=dtype)
    return _with_our_weights(model, shape, {r"^backbone\.embeddings\.": "backbone.embedding."})


def transformers_model(shape: Shape) -> nn.Module:
    """transformers' MambaForCausalLM: `model(tokens).logits`; to be run under `plain_kernels`."""
    package = modeling()
    settings = package.MambaConfig(
        hidden_size=shape.d_model,
        num_hidden_layers=shape.n_layer,
        vocab_size=VOCABULARY,
        state_size=shape.d_state,
    )
    return _with_our_weights(package.MambaForCausalLM(settings), shape, {})


class MambapyModel(nn.Module):
    """mambapy's layers between an embedding and a tied head; its own `LM` needs mamba_ssm for an import."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        package = importlib.import_module("mambapy.mamba")
        self.config = package.MambaConfig(
            d_model=shape.d_model, n_layers=shape.n_layer, d_state=shape.d_state
        )
        self.embeddings = nn.Embedding(VOCABULARY, shape.d_model)
        self.mamba = package.Mamba(self.config)
        self.norm_f = package.RMSNorm(shape.d_model, self.config.rms_norm_eps)
        self.lm_head = nn.Linear(shape.d_model, VOCABULARY, bias=False)
        self.lm_head.weight = self.embeddings.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, length, vocab) of tokens (batch, length)."""
        return self.lm_head(self.norm_f(self.mamba(self.embeddings(tokens))))

    def step(self, tokens: Tensor, caches: list[Any]) -> tuple[Tensor, list[Any]]:
        """Logits (batch, vocab) of tokens (batch,), and the caches of all layers after them."""
        hidden, caches = self.mamba.step(self.embeddings(tokens), caches)
        return self.lm_head(self.norm_f(hidden)), caches


def mambapy_model(shape: Shape) -> MambapyModel:
    """`model(tokens)`, and steps."""
    names = {r"^backbone\.layers\.": "mamba.layers.", r"^backbone\.": ""}
    return _with_our_weights(MambapyModel(shape), shape, names)


def narrowed(model: Model, dtype: torch.dtype) -> Model:
    """The model with its weights in `dtype`, but for those that set its time scales."""
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] not in NEVER_NARROWED:
            parameter.data = parameter.data.to(dtype)
    return model


def _with_our_weights(model: nn.Module, shape: Shape, names: Mapping[str, str]) -> Any:
    weights: dict[str, Tensor] = {}
    for name, weight in our_model(shape).state_dict().items():
        for pattern, replacement in names.items():
            name = re.sub(pattern, replacement, name)
        weights[name] = weight
    model.load_state_dict(weights)
    return model.to(shape.device)
