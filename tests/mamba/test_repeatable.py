"""On a GPU a pass gives the same bits twice: no sum is left to the order in which threads come by."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from bioaudio_mamba import BlockConfig, CausalLM, MambaConfig, SashimiConfig, WaveformLM

# cuBLAS refuses without it where deterministic algorithms are asked for; read before its first product.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
TOKENS = (4, 4096)
BLOCKS = [
    BlockConfig(),
    BlockConfig(complex=True),
    BlockConfig(kind="mamba-s4"),
    BlockConfig(kind="s4"),
    BlockConfig(kind="attention"),
]


def unet(block: BlockConfig) -> SashimiConfig:
    return SashimiConfig(d_model=32, n_layer=1, pooling=(4,), blocks=(block,), n_classes=3)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "config",
    [MambaConfig(d_model=32, n_layer=2), *map(unet, BLOCKS)],
    ids=["DNA", *(block.kind + (" complex" if block.complex else "") for block in BLOCKS)],
)
def test_gradients_are_the_same_bits_twice(config: Any, request: pytest.FixtureRequest) -> None:
    if isinstance(config, SashimiConfig) and config.block(0).kind == "attention":  # torch's, as it says
        torch.use_deterministic_algorithms(True)
        request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    kind: Any = CausalLM if isinstance(config, MambaConfig) else WaveformLM
    model = kind(config, torch.Generator().manual_seed(0)).cuda()
    options = {"labels": torch.arange(4, device="cuda") % 3} if kind is WaveformLM else {}
    tokens = torch.randint(config.vocab_size, TOKENS, generator=torch.Generator().manual_seed(1)).cuda()

    def gradients() -> list[Tensor]:
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model.nll(tokens, tokens, **options)[0].mean()
        loss.backward()
        return [loss, *(p.grad for p in model.parameters() if p.grad is not None)]

    first, second = gradients(), gradients()
    names = ["loss", *(name for name, p in model.named_parameters() if p.grad is not None)]
    unequal = [n for n, one, other in zip(names, first, second, strict=True) if not torch.equal(one, other)]
    assert not unequal
