"""Compiling CPU kernels with numba, and running their tasks on several threads.

Kernels release the GIL and run on plain Python threads, not on numba's own threading layers: those abort in a
forked child (OpenMP) or when two threads enter at once (workqueue), which data loaders and servers do.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numba
import torch

RANGES_A_THREAD = 4
WORK_A_THREAD = 1 << 17  # multiply-adds, some 0.1 ms


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` with numba at its first call, and keep the machine code on disk.

    The first call on a machine takes some seconds. Numba keeps its files beside the source, or in the user's
    cache folder where that is read-only; where neither can be written, every process compiles anew.
    """
    function = _bare(function)
    # Numba's cache notices a change of the kernel's own file, not of what it inlines: the name carries it
    # all.
    function.__qualname__ = f"{function.__name__}_{_sources_fingerprint()}"
    try:
        return numba.njit(function, nogil=True, cache=True)
    except RuntimeError:  # numba found no folder to cache in
        return numba.njit(function, nogil=True)


def inlined(function: Callable[..., Any]) -> Any:
    """Make `function` callable inside kernels; it is compiled into each of them."""
    return numba.njit(_bare(function), nogil=True)


def _bare(function: Callable[..., Any]) -> Callable[..., Any]:
    # A typechecking import hook may have wrapped the function; numba needs the function itself.
    return inspect.unwrap(function)


def run_tasks(compiled: Callable[..., None], tasks: int, work: int, *arguments: Any) -> None:
    """Call `compiled(first, last, *arguments)` on ranges that together cover `range(tasks)`.

    Uses up to `torch.get_num_threads()` threads, one for every `WORK_A_THREAD` of `work`: a decoding step is
    sooner done than another thread is woken. A thread takes the next range when it has done one, because
    torch's own threads spin for a while after their work, and the core that they keep would hold up a fixed
    share. A task must not depend on the range in which it runs, so that any number of threads gives the same.
    """
    threads = max(1, min(torch.get_num_threads(), tasks, work // WORK_A_THREAD))
    count = min(tasks, threads * RANGES_A_THREAD)
    borders = [tasks * i // count for i in range(count + 1)] if tasks else []
    ranges = iter(list(pairwise(borders)))

    def take_ranges() -> None:
        for first, last in ranges:  # one list iterator for all threads hands out each range once
            compiled(first, last, *arguments)

    others = [_thread_pool(os.getpid(), threads - 1).submit(take_ranges) for _ in range(threads - 1)]
    take_ranges()
    for other in others:
        other.result()


@cache
def _sources_fingerprint() -> str:
    sources = [path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py"))]
    compiled = [source for source in sources if b"numba" in source or b"bioaudio_kernels.compiled" in source]
    return hashlib.sha256(b"".join(compiled)).hexdigest()[:12]


@cache
def _thread_pool(process: int, threads: int) -> ThreadPoolExecutor:
    """A pool of its own for each process: threads do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"bioaudio-kernels-{process}")
