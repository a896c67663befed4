"""`bioaudio render-midi`: a folder of MIDI files to sound."""

from __future__ import annotations

from pathlib import Path

from bioaudio_data.audio import render_midi as midi


def render_midi(
    folder: Path,
    *,
    out: Path,
    sample_rate: int = 16_000,
    soundfont: Path | None = None,
    workers: int | None = None,
) -> str:
    """Render MIDI files to mono flac files by FluidSynth, as music to train on.

    Silence at both ends of a piece is cut off. The folder that it makes is one for `prepare-audio`.

    Args:
        folder: Folder of the .mid and .midi files, which may lie in folders of their own.
        out: Folder of the flac files to make; it appears only when it is complete.
        sample_rate: Samples a second.
        soundfont: SoundFont (.sf2) of the instruments; Debian's timgm6mb-soundfont or fluid-soundfont-gm if
            not given.
        workers: Processes of FluidSynth; one for each CPU core if not given.
    """
    made = midi.render_midi(folder, out, sample_rate=sample_rate, soundfont=soundfont, workers=workers)
    hours = sum(file.seconds for file in made) / 3600
    return f"{out}: {len(made):,} files, {hours:.2f} h at {sample_rate:,} Hz"
