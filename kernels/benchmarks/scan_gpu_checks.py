"""Every Triton kernel against its float64 reference on a GPU, and what exp2 does to slow decays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from bioaudio_kernels.causal_conv1d.reference import causal_conv1d_reference
from bioaudio_kernels.causal_conv1d.triton_op import causal_conv1d_triton
from bioaudio_kernels.selective_scan.reference import selective_scan_reference
from bioaudio_kernels.selective_scan.triton_config import choose_config
from bioaudio_kernels.selective_scan.triton_launch import ScanInputs
from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton
from bioaudio_kernels.selective_scan.triton_scan import scan_forward
from scan_gpu_kernels import make_inputs

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, relative_error


def check_scan() -> list[dict[str, Any]]:
    """Outputs, final state and all gradients against float64, and twice the same bits."""
    rows = []
    # batch, channels, length, states, dtype, forced chunk (0: the built-in rule)
    cases = [
        (2, 96, 500, 16, torch.float32, 0),
        (2, 128, 321, 16, torch.float32, 64),
        (1, 64, 1000, 16, torch.bfloat16, 128),
        (2, 100, 257, 5, torch.float32, 64),
        (1, 64, 200, 40, torch.float32, 64),
        (2, 64, 300, 1, torch.float16, 64),
        (1, 1, 1, 16, torch.float32, 0),
    ]
    for batch, d, length, n, dtype, chunk in cases:
        inputs = make_inputs(batch, d, length, n, dtype, state=True)
        config = choose_config(batch, length, d)
        if chunk:
            config = config._replace(chunk=chunk, segment=2)
        fast = [t.detach().requires_grad_() for t in inputs[:9]]
        exact = [t.detach().double().requires_grad_() for t in inputs[:9]]
        generator = torch.Generator(device="cuda").manual_seed(1)
        dy = torch.randn(batch, length, d, device="cuda", generator=generator).to(dtype)
        dh = torch.randn(batch, d, n, device="cuda", generator=generator)

        def run(fast=fast, config=config, dy=dy, dh=dh):
            y, h = selective_scan_triton(*fast, True, config=config)
            return y, h, *torch.autograd.grad([y, h], fast, [dy, dh])

        first, second = run(), run()
        y, h = selective_scan_reference(*exact, True)
        expected = (y, h, *torch.autograd.grad([y, h], exact, [dy.double(), dh.double()]))
        errors = {
            name: relative_error(a, e)
            for name, a, e in zip(("y", "h", *ScanInputs._fields[:9]), first, expected, strict=True)
        }
        low = {"y", "x", "dt", "B", "C", "z"}
        limit = {
            k: (OUTPUT_RTOL if k in ("y", "h") else GRADIENT_RTOL)[dtype if k in low else torch.float32]
            for k in errors
        }
        rows.append(
            {
                "case": f"scan {batch}x{length}x{d} N{n} chunk {config.chunk} {str(dtype)[6:]}",
                "errors": errors,
                "passed": all(errors[k] <= limit[k] for k in errors),
                "deterministic": all(torch.equal(a, b) for a, b in zip(first, second, strict=True)),
            }
        )
    return rows


def check_conv() -> list[dict[str, Any]]:
    rows = []
    for batch, c, length, width, dtype in [
        (2, 200, 1000, 4, torch.float32),
        (1, 128, 513, 4, torch.bfloat16),
        (2, 64, 2, 4, torch.float32),
        (1, 96, 700, 1, torch.float32),
        (1, 64, 600, 9, torch.float16),
    ]:
        generator = torch.Generator(device="cuda").manual_seed(0)
        x = torch.randn(batch, length, 2 * c, device="cuda", generator=generator).to(dtype)[..., :c]
        tensors = [x]
        tensors += [
            torch.randn(c, width, device="cuda", generator=generator),
            torch.randn(c, device="cuda", generator=generator),
        ]
        tensors += (
            [torch.randn(batch, width - 1, c, device="cuda", generator=generator).to(dtype)]
            if width > 1
            else []
        )
        dy = torch.randn(batch, length, c, device="cuda", generator=generator).to(dtype)
        dh = torch.randn(batch, width - 1, c, device="cuda", generator=generator).to(dtype)

        def run(function, cast, tensors=tensors, dy=dy, dh=dh, width=width):
            leaves = [cast(t.detach()).requires_grad_() for t in tensors]
            y, h = function(*leaves, *([None] if width == 1 else []), "silu")
            outputs, gradients = ([y, h], [cast(dy), cast(dh)]) if width > 1 else ([y], [cast(dy)])
            return y, h, *torch.autograd.grad(outputs, leaves, gradients)

        first, second = (run(causal_conv1d_triton, lambda t: t) for _ in range(2))
        expected = run(causal_conv1d_reference, lambda t: t.double())
        names = ("y", "h", "x", "weight", "bias", "initial_state")
        errors = {
            k: relative_error(a, e) for k, a, e in zip(names, first, expected, strict=False) if a.numel()
        }
        limit = {k: OUTPUT_RTOL[dtype] if k in "yh" else GRADIENT_RTOL[dtype] for k in errors}
        rows.append(
            {
                "case": f"conv {batch}x{length}x{c} width {width} {str(dtype)[6:]}",
                "errors": errors,
                "passed": all(errors[k] <= limit[k] for k in errors),
                "deterministic": all(torch.equal(a, b) for a, b in zip(first, second, strict=True)),
            }
        )
    return rows


def slow_decays() -> list[dict[str, float]]:
    """How far L steps of exp2(dt A) drift from exp(dt A L) when dt |A| is tiny.

    The state starts at 1 with x = 0, so that y = C h is the product of the decays.
    """
    rows = []
    length = 2**16
    for exponent in (-7.0, -6.5, -6.0, -5.5, -5.0, -4.5, -4.0):
        rate = 10.0**exponent
        d = 64
        step = torch.linspace(1.0, 1.1, d, device="cuda") * rate
        zeros = torch.zeros(1, length, d, device="cuda")
        ones = torch.ones(1, length, 1, device="cuda")
        inputs = ScanInputs(
            zeros, step.expand(1, length, d), -torch.ones(d, 1, device="cuda"), ones, ones, None, None, None,
            torch.ones(1, d, 1, device="cuda"), False,
        )  # fmt: skip
        config = choose_config(1, length, d)._replace(chunk=length, segment=1)
        _, final_state, _ = scan_forward(inputs, config)
        truth = torch.exp(-step.double() * length)
        rounded = torch.exp(-step.double()).float().double() ** length
        drift = (final_state[0, :, 0].double().log() / truth.log() - 1).abs()
        ideal = (rounded.log() / truth.log() - 1).abs()
        split, _, _ = scan_forward(inputs, config._replace(chunk=256, segment=1))
        chunked = (split[0, -1].double().log() / truth.log() - 1).abs()
        rows.append(
            {
                "dt_A": rate,
                "decay_rate_error_max": drift.max().item(),
                "decay_rate_error_of_exact_fp32_factors": ideal.max().item(),
                "decay_rate_error_in_chunks_of_256": chunked.max().item(),
            }
        )
    return rows
