"""Which windows a species classifier is trained on and judged by."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from bioaudio_data.genome import convert_genome
from bioaudio_data.interval import Interval
from bioaudio_data.vocabulary import DNA
from bioaudio_recipes.finetune.batches import StepBatches
from bioaudio_recipes.finetune.genome_task import GenomeTask
from bioaudio_recipes.finetune.genomes import GenomeSplits
from bioaudio_recipes.finetune.schedule import FinetuneSchedule, WarmupStage
from bioaudio_recipes.finetune.windows import WindowPool, draw_window, pools
from hypothesis import given
from hypothesis import strategies as st

LENGTH = 8


def two_classes() -> list[WindowPool]:
    big = [Interval("chr1", 0, 5000), Interval("chr1", 6000, 6100), Interval("chr2", 10, 60)]
    return [WindowPool(big, LENGTH), WindowPool([Interval("only", 3, 3 + LENGTH)], LENGTH)]


def test_class_then_contig_then_window_is_uniform() -> None:
    drawn = [draw_window(two_classes(), "uniform", seed=1, epoch=0, index=i) for i in range(8000)]
    classes = Counter(label for label, _ in drawn)
    contigs = Counter(window.contig for label, window in drawn if label == 0)
    first_half = np.mean([w.start < 2500 for _, w in drawn if w.contig == "chr1" and w.start < 5000])
    assert abs(classes[0] / 8000 - 1 / 2) < 0.02
    assert abs(contigs["chr1"] / classes[0] - 1 / 2) < 0.03
    assert abs(first_half - 2500 / 4993) < 0.03


def test_length_weight_follows_the_number_of_windows() -> None:
    pool = two_classes()[0]
    drawn = [draw_window([pool], "length", seed=1, epoch=0, index=i)[1] for i in range(8000)]
    expected = (60 - 10 - LENGTH + 1) / len(pool)
    assert (
        abs(np.mean([window.contig == "chr2" for window in drawn]) - expected) < 3 * (expected / 8000) ** 0.5
    )


def test_every_position_is_reached_and_nothing_beyond() -> None:
    segment = Interval("chr1", 100, 140)
    pool = WindowPool([segment], LENGTH)
    drawn = [draw_window([pool], "uniform", seed=0, epoch=0, index=i)[1] for i in range(1000)]
    assert {window.start for window in drawn} == set(range(100, 140 - LENGTH + 1))
    assert max(window.end for window in drawn) == segment.end


def test_draw_depends_on_seed_epoch_and_index_alone() -> None:
    def draws(seed: int, epoch: int, order: list[int]) -> list[tuple[int, Interval]]:
        return [draw_window(two_classes(), "uniform", seed=seed, epoch=epoch, index=i) for i in order]

    forward, backward = draws(3, 1, list(range(50))), draws(3, 1, list(range(49, -1, -1)))
    assert forward == backward[::-1]
    assert forward != draws(4, 1, list(range(50)))
    assert forward != draws(3, 2, list(range(50)))


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.integers(1, 12),
    st.integers(1, 40),
)
def test_pool_holds_every_window_of_its_segments_once(lengths: list[int], length: int, count: int) -> None:
    segments = [Interval(f"c{i % 3}", 100 * i, 100 * i + n) for i, n in enumerate(lengths)]
    expected = {
        Interval(s.contig, start, start + length)
        for s in segments
        for start in range(s.start, s.end - length + 1)
    }
    pool = WindowPool(segments, length)
    assert len(pool) == len(expected)
    assert {pool[i] for i in range(len(pool))} == expected
    if expected:
        spread = pool.spread(count)
        assert len(spread) == count
        assert set(spread) <= expected
        assert count == 1 or (spread[0], spread[-1]) == (pool[0], pool[len(pool) - 1])


def test_spread_windows_do_not_overlap_where_there_is_room() -> None:
    pool = WindowPool([Interval("chr1", 0, 100 * LENGTH)], LENGTH)
    starts = [window.start for window in pool.spread(pool.disjoint)]
    assert pool.disjoint == 100
    assert np.diff(starts).min() >= LENGTH - 1


def test_class_without_a_long_enough_sequence_is_named() -> None:
    segments = {"human": [Interval("chr1", 0, 500)], "gorilla": [Interval("a", 0, 90), Interval("b", 0, 99)]}
    with pytest.raises(
        ValueError, match=r"class 'gorilla' has no test sequence of 100 bases: .*b:0-99 with 99"
    ):
        pools(segments, 100, "test")


@pytest.fixture
def task(tmp_path: Path) -> GenomeTask:
    letters = np.frombuffer(b"ACGT", np.uint8)
    rng = np.random.default_rng(0)
    stores = {}
    for name in ("human", "gorilla"):
        fasta = tmp_path / f"{name}.fa"
        fasta.write_bytes(
            b"".join(b">%s\n%s\n" % (c, letters[rng.integers(0, 4, 1000)]) for c in (b"1", b"2"))
        )
        stores[name] = convert_genome([fasta], tmp_path / name, progress=False)
    segments = GenomeSplits(guard=20).divide(stores)
    return GenomeTask(stores=stores, segments=segments, reverse_complement=0.5)


def test_training_windows_hold_real_bases_of_the_train_split(task: GenomeTask) -> None:
    draw = task.training(50, seed=0)
    train = {name: [store.tokens(c, 0, 790) for c in "12"] for name, store in task.stores.items()}
    for index in range(40):
        tokens, label = draw(0, index)
        strands = (tokens.tobytes(), DNA.reverse_complement(tokens).tobytes())
        assert len(tokens) == 50
        assert any(s in contig.tobytes() for s in strands for contig in train[task.classes[label]])


def test_about_half_of_the_windows_are_of_the_opposite_strand(task: GenomeTask) -> None:
    draw = task.training(50, seed=0)
    plain = GenomeTask(stores=task.stores, segments=task.segments).training(50, seed=0)
    flipped = [not np.array_equal(draw(0, i)[0], plain(0, i)[0]) for i in range(400)]
    assert 0.4 < np.mean(flipped) < 0.6


def test_held_out_windows_are_fixed_and_balanced(task: GenomeTask) -> None:
    first, again = (task.held_out("test", 30, 7) for _ in range(2))
    examples = [first.read(i) for i in range(first.count)]
    assert Counter(label for _, label in examples) == {0: 7, 1: 7}
    assert all(np.array_equal(a, again.read(i)[0]) for i, (a, _) in enumerate(examples))
    assert first.independent == 2 * min(7, 2 * (90 // 30))


def test_aligned_genomes_are_cut_at_the_same_places(task: GenomeTask) -> None:
    assert task.segments["train"]["human"] == task.segments["train"]["gorilla"]
    border = task.segments["train"]["human"][0].end, task.segments["valid"]["human"][0].start
    assert border[1] - border[0] == 20


def test_contigs_can_be_held_out_by_name(task: GenomeTask) -> None:
    with pytest.raises(ValueError, match="no genome has a contig '3'"):
        GenomeSplits(valid_contigs=["1"], test_contigs=["3"]).divide(task.stores)
    with pytest.raises(ValueError, match="class 'human': split train has no contig"):
        GenomeSplits(valid_contigs=["1"], test_contigs=["2"]).divide(task.stores)
    with pytest.raises(ValueError, match=r"class 'human': no contig of .* matches"):
        GenomeSplits(contigs="chr.*").divide(task.stores)


def test_batches_are_the_same_in_a_copy_for_another_process(task: GenomeTask) -> None:
    stages = FinetuneSchedule(epochs=2, steps_per_epoch=2, batch_size=3, warmup=[WarmupStage(length=20)])
    steps = StepBatches(task, stages.plan(50, tokens_per_microbatch=100), seed=0)
    copy = pickle.loads(pickle.dumps(steps))
    batches = [copy[number] for number in (3, 1, 0, 2)]
    assert [tuple(batch.tokens.shape) for batch in batches] == [(3, 50), (3, 20), (3, 20), (3, 50)]
    for number, batch in zip((3, 1, 0, 2), batches, strict=True):
        assert torch.equal(batch.tokens, steps[number].tokens)
        assert torch.equal(batch.labels, steps[number].labels)
