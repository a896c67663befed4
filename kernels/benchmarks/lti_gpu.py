"""Correctness and speed of the time-invariant scan on one GPU, beside torch's FFT convolution.

    python kernels/benchmarks/lti_gpu.py --out DIR [--seconds 45]

Checks both methods against the float64 reference: outputs, states, every gradient, and the same bits twice.
Times them, forward and forward + backward, with several chunk lengths, against what S4D runs in plain torch:
an FFT convolution together with the making of its kernel. Writes DIR/lti_gpu.json; the table comes last.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from bioaudio_kernels.lti_scan.chunks import lti_scan_chunks
from bioaudio_kernels.lti_scan.fft import lti_scan_fft
from bioaudio_kernels.lti_scan.method import choose_chunk
from bioaudio_kernels.lti_scan.reference import lti_scan_reference
from torch import Tensor
from torch.utils.checkpoint import checkpoint

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, relative_error

# cuBLAS warns without it where deterministic algorithms are asked for; read before its first product.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
SHAPES = [(1, 512, 2**20), (8, 512, 16384), (32, 512, 2048)]
CHECKS = [(2, 300, 24, 32, True), (1, 1000, 17, 16, False), (3, 129, 8, 5, True), (1, 1, 1, 1, True)]
NAMES = ("x", "log_decay", "B", "C", "D", "initial_state")
VANDERMONDE = 2**27
"""Numbers of the (channels, states, length) tensor that the baseline makes at once."""


def system(d: int, n: int, is_complex: bool = True) -> list[Tensor]:
    """log_decay, B, C and D of S4D-Lin or S4D-Real as initialised, by the first-order rule."""
    rng = torch.Generator(device="cuda").manual_seed(0)
    dt = torch.exp(torch.rand(d, 1, device="cuda", generator=rng) * math.log(100) + math.log(1e-3))
    k = torch.arange(n, device="cuda")
    A = torch.complex(torch.full((n,), -0.5, device="cuda"), math.pi * k) if is_complex else -(k + 1.0)
    C = torch.randn(d, n, device="cuda", generator=rng, dtype=A.dtype)
    return [dt * A, (dt * torch.ones_like(A)), C, torch.ones(d, device="cuda")]


def s4d_in_plain_torch(x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The baseline: Vandermonde kernel in blocks of channels that fit in memory, then rfft and irfft."""
    length = x.shape[1]

    def kernel(log_decay: Tensor, weights: Tensor) -> Tensor:
        t = torch.arange(length, device=x.device)
        return 2 * torch.einsum("dn,dnl->dl", weights, torch.exp(log_decay.unsqueeze(-1) * t)).real

    width = max(1, VANDERMONDE // (log_decay.shape[1] * length))
    blocks = zip(log_decay.split(width), (B * C).split(width), strict=True)
    # Recomputed in the backward pass: kept, the exponentials of all channels take 137 GB at length 2^20.
    k = torch.cat([checkpoint(kernel, *block, use_reentrant=False) for block in blocks])
    u = x.mT.float()
    y = torch.fft.irfft(torch.fft.rfft(u, 2 * length) * torch.fft.rfft(k, 2 * length), 2 * length)
    return (y[..., :length] + D.unsqueeze(1) * u).mT.to(x.dtype)


def runs(chunk: int) -> dict[str, Callable[..., tuple[Tensor, Tensor]]]:
    """Both methods as functions of x, log_decay, B, C, D and perhaps an initial state."""

    def chunks(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        return lti_scan_chunks(*_with_state(arguments), chunk, "triton")

    def fft(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        return lti_scan_fft(*_with_state(arguments), chunk)

    return {"chunks": chunks, "fft": fft}


def _with_state(arguments: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    return arguments if len(arguments) == 6 else (*arguments, None)


def check() -> Iterator[dict[str, Any]]:
    for batch, length, d, n, is_complex in CHECKS:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            rng = torch.Generator(device="cuda").manual_seed(1)
            parameters = system(d, n, is_complex)
            like = parameters[0].dtype
            h0, dh = (torch.randn(batch, d, n, device="cuda", generator=rng, dtype=like) for _ in range(2))
            x, dy = (
                torch.randn(batch, length, d, device="cuda", generator=rng).bfloat16().to(dtype)
                for _ in range(2)
            )
            fast = [t.detach().requires_grad_() for t in (x, *parameters, h0)]
            wide = torch.complex128 if is_complex else torch.float64
            kinds = [torch.float64, wide, wide, wide, torch.float64, wide]
            exact = [t.detach().to(k).requires_grad_() for t, k in zip(fast, kinds, strict=True)]

            def results(function, leaves, dy=dy, dh=dh) -> list[Tensor]:
                y, h = function(*leaves)
                slopes = [dy.to(y.dtype), dh.to(h.dtype)]
                return [y, h, *torch.autograd.grad([y, h], leaves, slopes)]

            expected = results(lti_scan_reference, exact)
            for method, function in runs(64 if length > 64 else 8).items():
                first, second = results(function, fast), results(function, fast)
                errors, passed = {}, True
                for name, a, e in zip(("y", "h", *NAMES), first, expected, strict=True):
                    pair = [torch.view_as_real(t) if t.is_complex() else t for t in (a, e)]
                    errors[name] = relative_error(*pair)
                    table = OUTPUT_RTOL if name in ("y", "h") else GRADIENT_RTOL
                    passed &= errors[name] <= table[dtype if name in ("y", "x") else torch.float32]
                same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
                case = f"{method} {batch}x{length}x{d} N{n} {str(dtype)[6:]}"
                yield {"case": case, "errors": errors, "passed": passed, "same bits": same}


def milliseconds(run: Callable[[], Any], budget: float = 300.0) -> float:
    """Median over about `budget` ms of runs, at least three."""
    run()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < 30):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def measure(function: Callable[..., Any], leaves: list[Tensor], dy: Tensor) -> dict[str, float]:
    """Times of both directions, and memory in GB beyond the arguments."""

    def forward() -> Tensor:
        result = function(*leaves)
        return result if isinstance(result, Tensor) else result[0]

    def without_gradient() -> None:
        with torch.no_grad():
            forward()

    def both() -> None:
        torch.autograd.grad(forward(), leaves, dy)

    base = torch.cuda.memory_allocated()
    row = {"forward_ms": milliseconds(without_gradient)}
    torch.cuda.reset_peak_memory_stats()
    row["both_ms"] = milliseconds(both)
    row["peak_gb"] = (torch.cuda.max_memory_allocated() - base) / 1e9
    kept = forward()
    row["kept_gb"] = (torch.cuda.memory_allocated() - base) / 1e9
    del kept
    torch.cuda.empty_cache()
    return row


def time_shapes(deadline: float) -> Iterator[dict[str, Any]]:
    for batch, d, length in SHAPES:
        baseline: dict[str, float] = {}
        for dtype in (torch.bfloat16, torch.float32):
            x, dy = (torch.randn(batch, length, d, device="cuda", dtype=dtype) for _ in range(2))
            leaves = [t.requires_grad_() for t in (x, *system(d, 32))]
            shape = {"shape": (batch, d, length), "dtype": str(dtype)[6:]}
            if not baseline:  # it works in float32 in any case
                baseline = measure(s4d_in_plain_torch, leaves, dy)
                yield shape | {"method": "plain torch"} | baseline
            chosen = choose_chunk(x)
            for chunk in dict.fromkeys((chosen, 64, 128)):
                if time.monotonic() < deadline:
                    yield shape | {"method": f"chunks {chunk}"} | measure(runs(chunk)["chunks"], leaves, dy)
            if time.monotonic() < deadline:
                torch.backends.cuda.matmul.allow_tf32 = True
                row = measure(runs(chosen)["chunks"], leaves, dy)
                torch.backends.cuda.matmul.allow_tf32 = False
                yield shape | {"method": f"{chosen}, tf32"} | row
            if time.monotonic() < deadline:
                yield shape | {"method": "fft"} | measure(runs(128)["fft"], leaves, dy)
            del x, dy, leaves
            torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=45.0, help="start no further timing after this long")
    arguments = parser.parse_args()
    start = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    gpu = torch.cuda.get_device_name()
    results: dict[str, Any] = {"gpu": gpu, "torch": torch.__version__, "triton": triton.__version__}
    torch.use_deterministic_algorithms(
        True, warn_only=True
    )  # torch.empty gives NaN: what is not written shows
    results["checks"] = list(check())
    torch.use_deterministic_algorithms(False)
    for row in results["checks"]:
        errors = " ".join(f"{name} {error:.1e}" for name, error in row["errors"].items())
        print("ok  " if row["passed"] and row["same bits"] else "FAIL", row["case"], errors)
    results["times"] = []
    for row in time_shapes(start + arguments.seconds):
        results["times"].append(row)
        (arguments.out / "lti_gpu.json").write_text(json.dumps(results, indent=1))
    results["seconds"] = time.monotonic() - start
    (arguments.out / "lti_gpu.json").write_text(json.dumps(results, indent=1))
    print(f"\n{gpu}, torch {torch.__version__}, triton {triton.__version__}, {results['seconds']:.0f} s")
    print(
        "batch, d_inner, length  dtype     method           forward ratio    fwd+bwd ratio   peak GB kept GB"
    )
    plain: dict[str, float] = {}
    for row in results["times"]:
        plain = row if row["method"] == "plain torch" else plain
        columns = [f"{row['shape']!s:23} {row['dtype']:9} {row['method']:12}"]
        for key in ("forward_ms", "both_ms"):
            columns.append(f"{row[key]:11.2f} {plain[key] / row[key]:5.1f}")
        print("".join(columns), f"{row['peak_gb']:9.2f} {row['kept_gb']:7.2f}")


if __name__ == "__main__":
    main()
