"""The audio files of a folder, in natural order."""

from __future__ import annotations

import os
from pathlib import Path

from bioaudio_data.audio.decode import EXTENSIONS
from bioaudio_data.audio.splits import natural_key

NOTES = ("", ".txt", ".md", ".csv", ".tsv", ".json", ".html", ".pdf", ".sha256", ".md5")
"""Extensions of what lies beside sound without being meant as sound."""


def find_audio(folder: Path) -> tuple[list[str], list[str]]:
    """Look for audio files in a folder and all folders below it.

    Names that begin with a dot are left alone, and so are folders that begin with an underscore (Speech
    Commands keeps its background noise in one).

    Returns:
        Paths below `folder`, with `/`, in natural order: the audio files, and the files of other extensions
        than `EXTENSIONS` and `NOTES`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it has no audio file.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} does not exist, or is no folder; give the folder of the audio files"
        )
    audio, strange = [], []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        for name in files:
            path = Path(parent, name)
            if name.startswith(".") or path.suffix.lower() in NOTES:
                continue
            known = path.suffix.lower() in EXTENSIONS
            (audio if known else strange).append(path.relative_to(folder).as_posix())
    if not audio:
        raise ValueError(f"{folder} holds no audio file; what can be read is {', '.join(EXTENSIONS)}")
    return sorted(audio, key=natural_key), sorted(strange, key=natural_key)
