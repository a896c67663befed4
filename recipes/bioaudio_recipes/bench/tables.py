"""A race as text: a table for each shape, and for the shapes that the scan is judged at one table of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bioaudio_recipes.bench.contender import BOTH, FORWARD, STEP
from bioaudio_recipes.bench.race import Heat, Result
from bioaudio_recipes.bench.roofline import Device
from bioaudio_recipes.report.axis import quantity

NOTHING = "-"
EXPLANATION = (
    "Medians. ratio: a contender's time over ours, above 1 where ours is faster. of bound: the least time\n"
    "that the bytes (on a GPU also the scan's exponentials) take on this device, over the time taken. kept:\n"
    "what a forward pass leaves in memory for the backward pass, its output included."
)
ABSENT = Result(name="", milliseconds={}, reason="did not take part")


def heat_table(heat: Heat, device: Device) -> str:
    """What each contender took at one shape, and what the operation needs at the least."""
    timed = [result for result in heat.results if result.reason is None]
    columns = [[head, *map(cell, timed)] for head, cell in _columns(heat, device)]
    # What was measured of nobody is no column.
    columns = [column for column in columns if set(column[1:]) - {NOTHING}]
    width = max(len(result.name) for result in heat.results)
    heads, *rows = _aligned(columns) if columns else [""]
    cells = dict(zip((result.name for result in timed), rows, strict=True))
    lines = [f"{'':{width}}  {heads}"] if columns else []
    lines += [f"{r.name:{width}}  {cells.get(r.name, r.reason)}" for r in heat.results]
    return "\n".join(f"  {line}" for line in [*lines, *_least(heat, device)])


def judged_table(heats: Sequence[Heat], peer: str) -> str:
    """Ours against one peer, a line for each shape: times, and what is kept for the backward pass."""
    pairs = [(heat.results[0], next((r for r in heat.results if r.name == peer), ABSENT)) for heat in heats]
    sizes = [f"{heat.shape.batch}, {heat.shape.d_inner:,}, {heat.shape.length:,}" for heat in heats]
    columns = [["batch, channels, length", *sizes]]
    for name in (FORWARD, BOTH):
        times = [(ours.milliseconds.get(name), its.milliseconds.get(name)) for ours, its in pairs]
        columns.append([f"{name} ms", *(_number(mine) for mine, _ in times)])
        columns.append([peer, *(_number(theirs) for _, theirs in times)])
        columns.append(["ratio", *(_ratio(theirs, mine) for mine, theirs in times)])
    columns.append(["kept", *(_bytes(ours.kept_bytes) for ours, _ in pairs)])
    columns.append([peer, *(_bytes(its.kept_bytes) for _, its in pairs)])
    columns.append(["ours / its", *(_ratio(ours.kept_bytes, its.kept_bytes) for ours, its in pairs)])
    return "\n".join(_aligned(columns))


def _columns(heat: Heat, device: Device) -> Iterator[tuple[str, Callable[[Result], str]]]:
    """Heads, and what stands below them for a contender that was timed."""
    for name in dict.fromkeys(name for result in heat.results for name in result.milliseconds):
        yield f"{name} ms", lambda result, name=name: _number(result.milliseconds[name])
        yield "ratio", lambda result, name=name: _ratio_to_ours(heat, result, name)
        yield "of bound", lambda result, name=name: _of_bound(heat, result, name, device)
        if name == STEP:
            yield "steps/s", lambda result: f"{1e3 / result.milliseconds[STEP]:,.1f}"
            yield "tokens/s", lambda result: f"{heat.tokens * 1e3 / result.milliseconds[STEP]:,.0f}"
    yield "kept", lambda result: _bytes(result.kept_bytes)
    yield "peak", lambda result: _bytes(result.peak_bytes)
    yield "rounds", lambda result: str(result.rounds)


def _ratio_to_ours(heat: Heat, result: Result, name: str) -> str:
    ours = heat.results[0]
    return NOTHING if result is ours else _ratio(result.milliseconds[name], ours.milliseconds.get(name))


def _of_bound(heat: Heat, result: Result, name: str, device: Device) -> str:
    if name not in heat.work or not result.is_same:
        return NOTHING
    return f"{device.least_ms(heat.work[name]) / result.milliseconds[name]:.1%}"


def _least(heat: Heat, device: Device) -> Iterator[str]:
    for name, work in heat.work.items():
        exponentials = f" and {quantity(work.exponentials)} exponentials" if work.exponentials else ""
        least = f"{_bytes(work.bytes_moved)} moved{exponentials}, {_number(device.least_ms(work))} ms"
        yield f"{name}: at least {least}"


def _aligned(columns: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells, each column as wide as its widest."""
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    return ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]


def _number(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:,.2f}" if value >= 1 else f"{value:.3g}"


def _bytes(value: float | None) -> str:
    return NOTHING if value is None else f"{quantity(value)}B"


def _ratio(value: float | None, over: float | None) -> str:
    return NOTHING if value is None or not over else f"{value / over:.2f}x"
