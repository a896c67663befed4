"""The character vocabulary of DNA, with HyenaDNA's token ids."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

SOFT_MASK_BIT = 0x80
"""Set in a byte of a genome store whose base is soft-masked (lower case in FASTA); no token id has it."""
TOKEN_BITS = 0x7F
"""The rest of such a byte: the token id."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Tokens of a DNA language model: special tokens first, then the five letters.

    The ids are those of HyenaDNA's character tokenizer, so that models and token files are exchangeable.
    """

    CLS, SEP, BOS, MASK, PAD, RESERVED, UNK, A, C, G, T, N = range(12)

    name: str = "dna-char-hyenadna"
    """Name kept in checkpoints and stores."""
    tokens: tuple[str, ...] = (
        *("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]"),
        *("A", "C", "G", "T", "N"),
    )
    """Text of each token; a token's id is its place here."""
    padded_size: int = 16
    """Rows of a model's embedding: `size` rounded up to a multiple of 8; ids from `size` on mean nothing."""

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def encode(self, sequence: str | bytes) -> np.ndarray:
        """Token ids, uint8 (length,), of a sequence; either case, other letters become UNK."""
        letters = (
            bytearray(sequence, "ascii", "replace") if isinstance(sequence, str) else bytearray(sequence)
        )
        return np.frombuffer(letters.translate(self._from_letter), np.uint8)

    def decode(self, ids: np.ndarray) -> str:
        """Text of token ids (length,); special tokens read as `[PAD]`, `[UNK]`, ...

        Raises:
            ValueError: if an id is outside 0 .. `size` - 1.
        """
        ids = np.asarray(ids)
        if ids.size and not 0 <= ids.min() <= ids.max() < self.size:
            raise ValueError(f"token ids must lie in 0..{self.size - 1}; got {ids.min()}..{ids.max()}")
        if ids.size and ids.min() < self.A:
            return "".join(self.tokens[i] for i in ids)
        return ids.astype(np.uint8).tobytes().translate(self._to_letter).decode("ascii")

    @cached_property
    def complement(self) -> np.ndarray:
        """Lookup table, uint8 (256,): A <-> T and C <-> G, soft-masked or not; every other byte is itself."""
        table = np.arange(256, dtype=np.uint8)
        for base, partner in ((self.A, self.T), (self.C, self.G)):
            for mask in (0, SOFT_MASK_BIT):
                table[mask | base], table[mask | partner] = mask | partner, mask | base
        table.flags.writeable = False
        return table

    def reverse_complement(self, ids: np.ndarray) -> np.ndarray:
        """The opposite strand of uint8 ids (..., length), read 5' to 3'; a new array."""
        return self.complement[ids[..., ::-1]]

    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ when a name, token or size differs."""
        content = json.dumps([self.name, self.tokens, self.padded_size])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain description for a checkpoint: name, tokens, padded_size, fingerprint."""
        return {
            "name": self.name,
            "tokens": list(self.tokens),
            "padded_size": self.padded_size,
            "fingerprint": self.fingerprint(),
        }

    @cached_property
    def _from_letter(self) -> bytes:
        table = bytearray([self.UNK] * 256)
        for letter in "ACGTN":
            table[ord(letter)] = table[ord(letter.lower())] = self.tokens.index(letter)
        return bytes(table)

    @cached_property
    def _to_letter(self) -> bytes:
        return bytes.maketrans(bytes(range(self.A, self.N + 1)), b"ACGTN")


DNA = Vocabulary()
"""The vocabulary of every store and DNA model here: 12 tokens, padded to 16."""
