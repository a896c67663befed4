"""Dividing genomes into named splits: by the column of a BED file, by contig, or by position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from bioaudio_data.interval import Interval

Splits = dict[str, list[Interval]]
Fraction = tuple[float, float]

DEFAULT_GUARD = 100_000
"""Bases left out at a border: the great apes drift apart by up to 65 kb along chr22."""
DEFAULT_FRACTIONS: Mapping[str, Fraction] = {"train": (0.0, 0.8), "valid": (0.8, 0.9), "test": (0.9, 1.0)}


def split_by_column(intervals: Iterable[Interval]) -> Splits:
    """Group intervals by the split that their BED file names, in the order of the file.

    Raises:
        ValueError: if an interval names no split.
    """
    splits: Splits = {}
    for interval in intervals:
        if interval.split is None:
            raise ValueError(
                f"interval {interval} names no split: its BED needs four columns: contig, start, end and "
                "split, a word such as train, valid or test"
            )
        splits.setdefault(interval.split, []).append(interval)
    return splits


def split_by_contig(
    contigs: Mapping[str, int], *, rest: str | None = None, **splits: Iterable[str]
) -> Splits:
    """Give whole contigs to splits, as in `split_by_contig(contigs, rest="train", valid=["chr1"])`.

    Args:
        contigs: length of each contig.
        rest: split that takes the contigs named nowhere; without it they are left out.
        splits: contigs of each split.

    Raises:
        ValueError: for a contig that does not exist or is given twice, or a split without contigs.
    """
    named = {split: list(members) for split, members in splits.items()}
    owner: dict[str, str] = {}
    for split, members in named.items():
        for contig in members:
            if contig not in contigs:
                raise ValueError(f"split {split} names contig {contig!r}, which is not in the genome")
            if contig in owner:
                raise ValueError(f"contig {contig} is given twice: to split {owner[contig]} and to {split}")
            owner[contig] = split
    if rest is not None:
        named[rest] = [*named.get(rest, []), *(contig for contig in contigs if contig not in owner)]
    for split, members in named.items():
        if not members:
            raise ValueError(f"split {split} has no contig")
    return {
        split: [Interval(contig, 0, contigs[contig], split=split) for contig in members]
        for split, members in named.items()
    }


def split_by_fraction(contigs: Mapping[str, int], *, guard: int | None = None, **splits: Fraction) -> Splits:
    """Cut every contig at the same fractions of its length, leaving out a guard band at each internal border.

    With the same fractions for aligned genomes, homologous windows fall into the same split: the guard
    absorbs how far insertions and deletions move homologous bases against each other.

    Args:
        contigs: length of each contig.
        guard: bases between two neighbouring splits, half of them from each side of the border. The default
            of 100,000 is refused where it takes half or more of a split's share of a contig.
        splits: fractions at which each split begins and ends; 80, 10 and 10 % for train, valid, test if none.

    Returns:
        The segments of each split, one a contig.

    Raises:
        ValueError: for fractions out of order or overlapping, a negative guard, or a guard too large for a
            contig, saying how many bases would remain.
    """
    ordered = _ordered(splits or DEFAULT_FRACTIONS)
    band = DEFAULT_GUARD if guard is None else guard
    if band < 0:
        raise ValueError(f"the guard must be 0 bases or more, got {guard}")
    result: Splits = {split: [] for split, _ in ordered}
    for contig, length in contigs.items():
        shares = [(round(begin * length), round(end * length)) for _, (begin, end) in ordered]
        for (split, _), share, kept in zip(ordered, shares, _apart(shares, band), strict=True):
            remaining, whole = max(0, kept[1] - kept[0]), share[1] - share[0]
            if not remaining or (guard is None and 2 * remaining <= whole):
                raise ValueError(
                    f"contig {contig} of {length} bases is short for a guard of {band} at each border"
                    f"{' (the default)' if guard is None else ''}: split {split} would keep {remaining} of "
                    f"its {whole} bases; choose a smaller --guard"
                )
            result[split].append(Interval(contig, *kept, split=split))
    return result


def _ordered(splits: Mapping[str, Fraction]) -> list[tuple[str, Fraction]]:
    ordered = sorted(splits.items(), key=lambda item: item[1])
    for split, (begin, end) in ordered:
        if not 0 <= begin < end <= 1:
            raise ValueError(f"split {split} must be fractions 0 <= begin < end <= 1, got {begin} to {end}")
    for (left, (_, end)), (right, (begin, _)) in pairwise(ordered):
        if begin < end:
            raise ValueError(f"split {right} begins at {begin}, before split {left} ends at {end}")
    return ordered


def _apart(shares: Sequence[tuple[int, int]], guard: int) -> list[tuple[int, int]]:
    """Trim neighbours until `guard` bases lie between them; those that lie there already count."""
    parts = [list(share) for share in shares]
    for left, right in pairwise(parts):
        missing = max(0, guard - (right[0] - left[1]))
        left[1] -= missing // 2
        right[0] += missing - missing // 2
    return [(begin, end) for begin, end in parts]
