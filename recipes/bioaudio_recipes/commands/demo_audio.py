"""`bioaudio demo-audio`: from sound to sound, on speech that the package makes itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bioaudio_data.samples.synthetic_speech import write_synthetic_speech

from bioaudio_recipes.commands.demo import run_story
from bioaudio_recipes.run_folder import RunFolder

SAMPLE_RATE = 4000
QUICK = {
    "pretrain-audio": [
        *("--schedule.stages", "[{length: 2000, steps: 2}]", "--schedule.tokens_per_step=4000"),
        *("--trainer.tokens_per_microbatch=4000", "--validation.max_samples=4000"),
    ],
    "generate": ["--seconds=0.01"],
}
"""What cuts a command of the demo down to a few steps."""


def demo_audio(*, out: Path = Path("demo-audio-run"), quick: bool = False) -> str:
    """Make synthetic spoken digits, train a network on them, generate digits and write the report.

    The speech is synthetic: pulses and noise through resonators, three voices. Every step is an ordinary
    `bioaudio` command, shown as it starts. A demo that was stopped goes on.

    Args:
        out: run folder to write; the clips are in its folder `generated`.
        quick: take a few steps of everything, to see that an installation works.
    """
    folder = RunFolder(out)
    return run_story(folder, list(_steps(folder, takes=3 if quick else 12)), QUICK if quick else {})


def _steps(folder: RunFolder, takes: int) -> Iterator[list[str]]:
    """The commands of the demo; recordings that are already stored are not stored again."""
    recordings, store = folder.root / "recordings", folder.root / "store"
    if not store.exists():
        write_synthetic_speech(recordings, takes=takes, sample_rate=SAMPLE_RATE)
        yield [
            *("prepare-audio", str(recordings), "--out", str(store), f"--sample-rate={SAMPLE_RATE}"),
            r"--tags.pattern=(?P<label>\d)_(?P<speaker>\w+)_(?P<index>\d+)",
            *("--split.by=index", "--split.valid=[1]", "--split.test=[0]"),
        ]
    yield [
        *("pretrain-audio", "--config", "pretrain-audio/demo"),
        *("--data.store", str(store), "--out", str(folder.root)),
    ]
    yield ["generate", str(folder.root), "--num=10", "--batch=10", "--seconds=0.45", "--temperature=0.9"]
    yield ["report", str(folder.root)]
