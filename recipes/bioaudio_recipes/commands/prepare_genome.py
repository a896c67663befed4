"""`bioaudio prepare-genome`: FASTA or .2bit files to one genome store."""

from __future__ import annotations

from pathlib import Path

from bioaudio_data.genome import Ambiguous, SoftMask, convert_genome


def prepare_genome(
    sources: list[Path],
    *,
    out: Path,
    ambiguous: Ambiguous = "error",
    soft_mask: SoftMask = "keep",
    overwrite: bool = False,
) -> str:
    """Convert FASTA (plain, gzip, bgzip) and .2bit files to one genome store.

    Args:
        sources: Files of the genome; their contigs are stored in this order.
        out: Folder of the store to make; it appears only when the store is complete.
        ambiguous: What to do with IUPAC's ambiguity letters (R, Y, S, ...): stop, or store them as N.
        soft_mask: Keep lower case as the soft mask, or drop it and store every base unmasked.
        overwrite: Replace an older store at `out`.
    """
    store = convert_genome(sources, out, ambiguous=ambiguous, soft_mask=soft_mask, overwrite=overwrite)
    counts, size = store.index.composition, store.index.size
    gc = (counts["C"] + counts["G"]) / max(1, size - counts["N"])
    return (
        f"{store.path}: {size:,} bases in {len(store.contigs):,} contig(s), GC {gc:.1%}, "
        f"soft-masked {counts['soft_masked'] / size:.1%}, N {counts['N']:,}"
        + (f" ({counts['ambiguous']:,} were ambiguity letters)" if counts["ambiguous"] else "")
    )
