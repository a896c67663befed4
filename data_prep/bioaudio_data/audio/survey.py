"""What a folder holds before anything is converted: its audio files, their tags and headers, and what is
bad."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from bioaudio_data.audio.decode import EXTENSIONS, Header, read_header
from bioaudio_data.audio.folder import find_audio
from bioaudio_data.audio.index import Skipped
from bioaudio_data.audio.tags import TagConfig, Tags, read_tags


class AudioFile(NamedTuple):
    """A file to convert."""

    name: str
    """Path below the folder, with `/`."""
    tags: Tags
    header: Header


class BadFiles:
    """Stops at the first bad file, or keeps a list of them.

    Args:
        folder: where the files are.
        skip: whether to leave bad files out.
    """

    def __init__(self, folder: Path, skip: bool) -> None:
        self.folder = folder
        self.skip = skip
        self.skipped: list[Skipped] = []

    def add(self, name: str, error: ValueError | str) -> None:
        """Note what is wrong with a file, an error that names it or the end of a sentence about it.

        Raises:
            ValueError: saying so, unless bad files are left out.
        """
        path = str(self.folder / name)
        reason = str(error).removeprefix(f"{path} ")
        if not self.skip:
            raise ValueError(f"{path} {reason}; to leave bad files out: --skip-bad")
        self.skipped.append(Skipped(name, reason))

    def require(self, good: int) -> None:
        """See that good files are left.

        Raises:
            ValueError: if there are none.
        """
        if not good:
            raise ValueError(f"{self.folder} has no good audio file: all {len(self.skipped)} are bad")


def survey(folder: Path, config: TagConfig, bad: BadFiles, *, progress: bool) -> list[AudioFile]:
    """Find a folder's audio files, in natural order, and read their tags and headers.

    Raises:
        FileNotFoundError: if the folder or the table of tags is missing.
        ValueError: if nothing good is there; naming the file, at a bad one that is not to be left out.
    """
    names, strange = find_audio(folder)
    for name in strange:
        bad.add(name, f"has an extension that cannot be read (only {', '.join(EXTENSIONS)})")
    files: list[AudioFile] = []
    tagged, quiet = read_tags(folder, names, config), None if progress else True  # None: only on a terminal
    for name, tags in tqdm(tagged.items(), desc="looking", unit=" files", leave=False, disable=quiet):
        if isinstance(tags, str):
            bad.add(name, tags)
            continue
        try:
            files.append(AudioFile(name, tags, read_header(folder / name)))
        except ValueError as error:
            bad.add(name, error)
    bad.require(len(files))
    return files
