"""Half precision where it is harmless, float32 where it matters."""

from __future__ import annotations

import torch
from tolerances import OUTPUT_RTOL, assert_close
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from bioaudio_mamba import CausalLM
from bioaudio_mamba.backbone import ResidualLayer
from bioaudio_mamba.norm import RMSNorm


def test_autocast_keeps_parameters_states_and_residuals_in_float32(model: CausalLM, tokens: Tensor) -> None:
    residuals = []
    for layer in model.backbone.layers:
        assert isinstance(layer, ResidualLayer)
        layer.register_forward_hook(lambda *call: residuals.append(call[-1][0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = model(tokens)
        _, stepped = model.step(tokens[:, 0], state)
    logits.float().sum().backward()
    assert logits.dtype == torch.bfloat16
    assert set(residuals) == {torch.float32}
    assert {layer.ssm.dtype for layer in (*state, *stepped)} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_autocast_stays_close_to_float32(model: CausalLM, tokens: Tensor) -> None:
    parameters = list(model.parameters())
    logits, _ = model(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        half_logits, _ = model(tokens)
    assert_close(half_logits, logits, OUTPUT_RTOL[torch.bfloat16], "logits")
    expected = parameters_to_vector(torch.autograd.grad(logits.square().mean(), parameters))
    actual = parameters_to_vector(torch.autograd.grad(half_logits.float().square().mean(), parameters))
    # As one vector: single parameters with small gradients carry the rounding of large activations.
    assert (actual - expected).norm() <= OUTPUT_RTOL[torch.bfloat16] * expected.norm()


def test_a_model_cast_to_bfloat16_still_scans_in_float32(model: CausalLM, tokens: Tensor) -> None:
    logits, state = model.bfloat16()(tokens)
    assert logits.dtype == torch.bfloat16
    assert {layer.ssm.dtype for layer in state} == {torch.float32}
    assert {layer.ssm.dtype for layer in model.initial_state(1)} == {torch.float32}


def test_rms_norm_is_its_definition(rng: torch.Generator) -> None:
    norm = RMSNorm(32, eps=1e-3)
    nn.init.normal_(norm.weight, generator=rng)
    x = torch.randn(4, 5, 32, generator=rng)
    exact = x.double()
    exact = exact / (exact.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight.double()
    assert_close(norm(x), exact, OUTPUT_RTOL[torch.float32], "norm")
