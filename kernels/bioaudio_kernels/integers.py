"""Whole numbers on the host: Triton's own, made for kernels too, take some microseconds a call."""

from __future__ import annotations


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << (n - 1).bit_length()
