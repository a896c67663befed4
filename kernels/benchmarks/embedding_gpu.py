"""Correctness and speed of the gradient of a table of vectors on one GPU, beside torch's.

    python kernels/benchmarks/embedding_gpu.py --out DIR

Milliseconds of the gradient alone, of tokens as DNA has them (four of a vocabulary of 16) and as 8-bit
waveforms do, by ours, by torch, and by torch where deterministic algorithms are asked for; the largest error
beside sums in float64, relative to the largest sum; and whether two runs give the same bits. Writes
DIR/embedding_gpu.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bioaudio_kernels.embedding.triton_op import PROGRAMS, STEPS, embedding_triton
from torch import Tensor
from torch.nn import functional

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from tolerances import GRADIENT_RTOL, relative_error


class Case(NamedTuple):
    vocab: int
    width: int
    tokens: int
    occurring: range


DNA, CODES = range(7, 11), range(256)
CASES = [
    Case(16, 256, 2**20, DNA),
    Case(16, 128, 2**17, DNA),
    Case(256, 64, 2**20, CODES),
    Case(256, 64, 2**18, CODES),
]


def milliseconds(run: Callable[[], Any], runs: int = 20) -> float:
    """Median, after three runs for nothing."""
    times = []
    for _ in range(runs + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[3:])


def measure(case: Case) -> dict[str, Any]:
    generator = torch.Generator(device="cuda").manual_seed(0)
    low, high = case.occurring.start, case.occurring.stop
    tokens = torch.randint(low, high, (case.tokens,), device="cuda", generator=generator)
    dy = torch.randn(case.tokens, case.width, device="cuda", generator=generator)
    weight = torch.zeros(case.vocab, case.width, device="cuda", requires_grad=True)
    exact = torch.zeros_like(weight, dtype=torch.float64).index_add_(0, tokens, dy.double())
    row: dict[str, Any] = case._asdict() | {"occurring": len(case.occurring)}

    def add(name: str, lookup: Callable[[Tensor, Tensor], Tensor]) -> None:
        vectors = lookup(tokens, weight)

        def gradient() -> Tensor:
            return torch.autograd.grad(vectors, weight, dy, retain_graph=True)[0]

        row[name] = {
            "ms": milliseconds(gradient),
            "error": relative_error(gradient(), exact),
            "repeats": torch.equal(gradient(), gradient()),
        }

    add("ours", embedding_triton)
    add("torch", functional.embedding)
    torch.use_deterministic_algorithms(True)
    add("torch, deterministic", functional.embedding)
    torch.use_deterministic_algorithms(False)
    if not row["ours"]["repeats"] or row["ours"]["error"] > GRADIENT_RTOL[torch.float32]:
        raise SystemExit(f"wrong: {row}")
    return row


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    results |= {"programs": PROGRAMS, "steps": STEPS, "cases": [measure(case) for case in CASES]}
    (out / "embedding_gpu.json").write_text(json.dumps(results, indent=1))
    print(f"{results['gpu']}, torch {results['torch']}")
    for row in results["cases"]:
        shape = f"{row['vocab']:4} x {row['width']:3}, {row['tokens']:8} tokens"
        for name in ("ours", "torch", "torch, deterministic"):
            found = row[name]
            repeats = "same bits" if found["repeats"] else "other bits"
            print(f"{shape}: {name:20} {found['ms']:.3f} ms, error {found['error']:.1e}, {repeats}")


if __name__ == "__main__":
    main()
