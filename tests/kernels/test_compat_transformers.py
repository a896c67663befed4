"""transformers' own Mamba on our kernels, by the recipe of `bioaudio_kernels.compat`: the same model."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from bioaudio_kernels import compat
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close

MODELING = "transformers.models.mamba.modeling_mamba"


class Models(NamedTuple):
    """The same weights in two copies of transformers' code, and which of our functions the second calls."""

    theirs: Any
    ours: Any
    calls: Counter[str]


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    calls: Counter[str] = Counter()

    def counted(name: str) -> Any:
        function = getattr(compat, name)

        def call(*arguments: Any, **options: Any) -> Any:
            calls[name] += 1
            return function(*arguments, **options)

        return importlib.import_module("functools").wraps(function)(call)

    with pytest.MonkeyPatch.context() as patch:
        transformers = pytest.importorskip("transformers")
        # It may not fit torch, and is not needed.
        patch.setattr("transformers.utils.is_torchaudio_available", lambda: False)
        transformers.utils.logging.set_verbosity_error()
        theirs = importlib.import_module(MODELING)
        for name in compat.__all__:
            patch.setattr(compat, name, counted(name))
        # The recipe, before the first import of transformers' Mamba: here, of another copy of it.
        patch.delitem(sys.modules, MODELING)
        patch.setitem(sys.modules, "mamba_ssm", compat)
        patch.setitem(sys.modules, "causal_conv1d", compat)
        ours = importlib.import_module(MODELING)
        assert ours is not theirs
        config = transformers.MambaConfig(
            vocab_size=16,
            hidden_size=24,
            num_hidden_layers=2,
            state_size=5,
            time_step_rank=3,
            use_bias=True,
            initializer_range=0.5,
        )
        torch.manual_seed(0)
        slow, fast = (modeling.MambaForCausalLM(config).eval() for modeling in (theirs, ours))
        fast.load_state_dict(slow.state_dict())
        yield Models(slow, fast, calls)
    # Whoever imports the module through its package must find the first copy there again.
    sys.modules["transformers.models.mamba"].__dict__["modeling_mamba"] = theirs


@pytest.fixture
def tokens(rng: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 16, (2, 11), generator=rng)


def test_logits_agree(models: Models, tokens: torch.Tensor) -> None:
    models.calls.clear()
    with torch.no_grad():
        expected, actual = (model(tokens).logits for model in (models.theirs, models.ours))
    assert models.calls == {"causal_conv1d_fn": 2, "selective_scan_fn": 2}
    assert_close(actual, expected, OUTPUT_RTOL[torch.float32], "logits")


def test_loss_and_gradients_agree(models: Models, tokens: torch.Tensor) -> None:
    models.calls.clear()
    losses, gradients = [], []
    for model in (models.theirs, models.ours):
        model.train()
        loss = model(tokens, labels=tokens, use_cache=False).loss
        parameters = dict(model.named_parameters())
        gradients.append(
            dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        )
        losses.append(loss.detach())
        model.eval()
    assert models.calls == {"mamba_inner_fn": 2}
    assert_close(losses[1], losses[0], OUTPUT_RTOL[torch.float32], "loss")
    for name, expected in gradients[0].items():
        assert_close(gradients[1][name], expected, GRADIENT_RTOL[torch.float32], name)


def test_generation_through_the_cache_agrees(models: Models, tokens: torch.Tensor) -> None:
    models.calls.clear()
    options = {
        "max_new_tokens": 6,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    expected, actual = (model.generate(tokens, **options) for model in (models.theirs, models.ours))
    assert models.calls["causal_conv1d_update"] == models.calls["selective_state_update"] == 2 * 5
    assert torch.equal(actual.sequences, expected.sequences)
    for t, (a, e) in enumerate(zip(actual.logits, expected.logits, strict=True)):
        assert_close(a, e, OUTPUT_RTOL[torch.float32], f"logits of new token {t}")
