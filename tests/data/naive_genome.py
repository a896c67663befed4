"""What the genome tests compare with: the obvious parser, writers of FASTA and .2bit, a worker to import."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import struct
from pathlib import Path

import numpy as np
from bioaudio_data.genome.store import GenomeStore
from bioaudio_data.genome.stream import BaseStream, ContigStart

Genome = dict[str, str]
"""Letters (A, C, G, T, N in either case) by contig."""
BYTES = {letter: 7 + i for i, letter in enumerate("ACGTN")} | {
    letter: 0x87 + i for i, letter in enumerate("acgtn")
}


def encoded(letters: str) -> np.ndarray:
    """The bytes of a store, one letter at a time."""
    return np.array([BYTES[letter] for letter in letters], np.uint8)


def collected(stream: BaseStream) -> dict[str, np.ndarray]:
    """The bytes of each contig of a stream."""
    parts: dict[str, list[np.ndarray]] = {}
    for item in stream:
        if isinstance(item, ContigStart):
            parts[item.name] = []
        else:
            parts[list(parts)[-1]].append(item)
    return {name: np.concatenate(runs) for name, runs in parts.items()}


def stored(store: GenomeStore) -> dict[str, str]:
    """The letters of each contig of a store."""
    letters = {byte: letter for letter, byte in BYTES.items()}
    genome = {}
    for name, length in store.contigs.items():
        tokens, mask = store.read(name, 0, length)
        genome[name] = "".join(letters[int(byte)] for byte in tokens | (mask * np.uint8(0x80)))
    return genome


def fasta_text(genome: Genome, *, width: int = 60, newline: str = "\n", final_newline: bool = True) -> bytes:
    """FASTA with lines of `width` letters."""
    lines = []
    for name, letters in genome.items():
        lines.append(f">{name} a description > of it")
        lines += [letters[i : i + width] for i in range(0, len(letters), width)]
    return (newline.join(lines) + (newline if final_newline else "")).encode()


def gzip_members(text: bytes, size: int) -> bytes:
    """Gzip in members of `size` bytes of text, as bgzip writes them."""
    return b"".join(gzip.compress(text[i : i + size]) for i in range(0, max(1, len(text)), size))


def twobit_file(genome: Genome, *, order: str = "<", version: int = 0) -> bytes:
    """A .2bit file; byte order `<` or `>`, version 1 has offsets of 64 bits."""
    names = [name.encode() for name in genome]
    kind = "Q" if version else "I"
    at = 16 + sum(1 + len(name) + struct.calcsize(order + kind) for name in names)
    header = struct.pack(f"{order}4I", 0x1A412743, version, len(genome), 0)
    body = bytearray()
    for name, letters in zip(names, genome.values(), strict=True):
        header += bytes([len(name)]) + name + struct.pack(order + kind, at + len(body))
        body += struct.pack(f"{order}I", len(letters))
        for blocks in (_runs(letters, "Nn"), _runs(letters, "acgtn")):
            numbers = [len(blocks), *(start for start, _ in blocks), *(size for _, size in blocks)]
            body += struct.pack(f"{order}{len(numbers)}I", *numbers)
        body += struct.pack(f"{order}I", 0)
        codes = ["TCAGT"["TCAGN".index(letter)] for letter in letters.upper()] + ["T"] * (-len(letters) % 4)
        for four in zip(*[iter(codes)] * 4, strict=True):
            byte = 0
            for letter in four:
                byte = byte << 2 | "TCAG".index(letter)
            body += bytes([byte])
    return header + bytes(body)


def digest_of_windows(store: GenomeStore, windows: list[tuple[str, int, int]]) -> str:
    """SHA-256 of tokens and soft mask of all windows: what a worker sends back."""
    digest = hashlib.sha256()
    for contig, start, end in windows:
        tokens, mask = store.read(contig, start, end)
        digest.update(tokens.tobytes() + mask.tobytes())
    return digest.hexdigest()


def write(path: Path, content: bytes) -> Path:
    """Write a file and return its path."""
    path.write_bytes(content)
    return path


def _runs(letters: str, kept: str) -> list[tuple[int, int]]:
    """Starts and lengths of the longest runs of letters among `kept`."""
    runs, at = [], 0
    for inside, group in itertools.groupby(letters, lambda letter: letter in kept):
        length = len(list(group))
        if inside:
            runs.append((at, length))
        at += length
    return runs
