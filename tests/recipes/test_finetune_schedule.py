"""How long a classifier trains at each length."""

from __future__ import annotations

import pytest
from bioaudio_recipes.cli import RECIPES, parser_for, with_recipe_paths
from bioaudio_recipes.finetune.schedule import FinetuneSchedule, WarmupStage
from hypothesis import given
from hypothesis import strategies as st


def test_up_to_16384_bases_the_paper_has_no_warm_up() -> None:
    for length in (2**10, 2**14):
        (stage,) = FinetuneSchedule().plan(length, 2**20)
        assert (stage.length, stage.steps, stage.batch_size) == (length, 10 * 1024, 64)


def test_longer_sequences_spend_an_epoch_at_each_power_of_two_before() -> None:
    stages = FinetuneSchedule().plan(2**20, 2**20)
    assert [(stage.length, stage.steps) for stage in stages] == [
        *((2**k, 1024) for k in range(14, 20)),
        (2**20, 4 * 1024),
    ]


def test_whole_sequences_are_never_warmed_up_unasked() -> None:
    (stage,) = FinetuneSchedule().plan(2**16, 2**20, examples_per_epoch=640)
    assert (stage.length, stage.steps) == (2**16, 100)


def test_own_warm_up_and_epochs_by_passes() -> None:
    schedule = FinetuneSchedule(epochs=5, batch_size=8, warmup=[WarmupStage(length=128, epochs=2)])
    stages = schedule.plan(512, 2**20, examples_per_epoch=20)
    assert [(stage.length, stage.steps) for stage in stages] == [(128, 6), (512, 9)]


@pytest.mark.parametrize("name", sorted(path.stem for path in (RECIPES / "finetune").glob("*.yaml")))
def test_every_yaml_parses_and_plans(name: str) -> None:
    parser = parser_for("finetune")
    flags = with_recipe_paths("finetune", ["--config", f"finetune/{name}", "--out=x"])
    values = parser.instantiate(parser.parse_args(flags))
    stages = values.schedule.plan(values.length, values.trainer.tokens_per_microbatch)
    assert stages[-1].length == values.length


@given(st.integers(1, 100), st.integers(1, 3000), st.integers(1, 2**14))
def test_parts_of_a_step_fit_and_add_up(batch_size: int, length: int, tokens: int) -> None:
    (stage,) = FinetuneSchedule(batch_size=batch_size).plan(length, tokens)
    assert stage.batch_size == batch_size
    assert max(stage.microbatches) * length <= max(tokens, length)
    assert max(stage.microbatches) - min(stage.microbatches) <= 1


def test_schedules_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--schedule.epochs 6: the length warm-up takes 6, so none is left"):
        FinetuneSchedule(epochs=6).plan(2**20, 2**20)
    with pytest.raises(ValueError, match="a warm-up at 512 bases is not below --length 512"):
        FinetuneSchedule(warmup=[WarmupStage(length=512)]).plan(512, 2**20)
    with pytest.raises(ValueError, match=r"--schedule.batch_size must be 1 or more"):
        FinetuneSchedule(batch_size=0)
