"""Layouts of published data sets: where their labels and splits are."""

from __future__ import annotations

from typing import Literal

from bioaudio_data.audio.splits import SplitConfig
from bioaudio_data.audio.tags import TagConfig

Layout = Literal["speech_commands", "sc09", "fsdd"]
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_COMMAND_NAME = r"(?P<speaker>[0-9a-f]+)_nohash_(?P<index>\d+)"


def layout(name: Layout) -> tuple[TagConfig, SplitConfig]:
    """Tags and splits of a published data set.

    `speech_commands`: a folder per word, the speaker's hash in the name, the official lists (Warden 2018).
    `sc09`: its digits zero to nine, the speech set of SaShiMi and Mamba.
    `fsdd`: the Free Spoken Digit Dataset; recordings 0-4 of each speaker and digit are the official test
    split, and 5-9 are taken for validation here.

    Raises:
        ValueError: for another name.
    """
    match name:
        case "speech_commands":
            return TagConfig(folders=True, pattern=_COMMAND_NAME), SplitConfig(by="lists")
        case "sc09":
            tags = TagConfig(folders=True, pattern=_COMMAND_NAME, keep_labels=DIGITS)
            return tags, SplitConfig(by="lists")
        case "fsdd":
            tags = TagConfig(pattern=r"(?P<label>\d)_(?P<speaker>\w+)_(?P<index>\d+)")
            return tags, SplitConfig(by="index", valid=("5-9",), test=("0-4",))
    raise ValueError(f"unknown --layout {name!r}: choose speech_commands, sc09 or fsdd")
