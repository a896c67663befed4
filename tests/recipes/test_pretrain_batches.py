"""What a pretraining reads: every window once an epoch, the same batches however they are loaded."""

from __future__ import annotations

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from bioaudio_data.augment import Augmentation
from bioaudio_data.genome import GenomeStore, convert_genome
from bioaudio_data.interval import Interval
from bioaudio_data.vocabulary import DNA, SOFT_MASK_BIT
from bioaudio_data.windows import StagePlan, Windows
from bioaudio_recipes.pretrain.batch_order import BatchOrder, ResumableLoader
from bioaudio_recipes.pretrain.length_warmup import LengthWarmup, Stage
from bioaudio_recipes.pretrain.packed_windows import PackedWindows
from bioaudio_recipes.pretrain.training_batches import TrainingBatches
from hypothesis import given
from hypothesis import strategies as st

SEQUENCES = {"one": "ACGTTGCANNacgtACGGTAAC", "two": "TTTTccccGGGGaaaaNACGT"}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[GenomeStore]:
    folder = tmp_path_factory.mktemp("stores")
    for name, sequence in SEQUENCES.items():
        (folder / f"{name}.fa").write_text(f">{name}\n{sequence}\n")
    return [convert_genome([folder / f"{n}.fa"], folder / n, progress=False) for n in SEQUENCES]


def windows_of(stores: list[GenomeStore], length: int) -> PackedWindows:
    parts = [
        Windows([Interval(name, 0, size)], length, "tile", store.contigs)
        for store in stores
        for name, size in store.contigs.items()
    ]
    return PackedWindows(stores, parts)


def text(packed: np.ndarray) -> str:
    letters = DNA.decode(packed & (SOFT_MASK_BIT - 1))
    return "".join(x.lower() if p & SOFT_MASK_BIT else x for x, p in zip(letters, packed, strict=True))


def plan(windows: int, steps: int, batch_size: int, length: int = 4) -> StagePlan:
    return StagePlan(
        length=length,
        windows=windows,
        batch_size=batch_size,
        tokens=windows * length,
        epochs=1.0,
        steps=steps,
    )


def test_windows_read_the_bases_of_their_genome(stores: list[GenomeStore]) -> None:
    windows = windows_of(stores, 8)
    assert len(windows) == 4
    read = [text(row) for row in windows.read(np.array([0, 1, 2, 3]))]
    assert read == ["ACGTTGCA", "NNacgtAC", "TTTTcccc", "GGGGaaaa"]


def test_shifted_windows_read_n_outside_their_contig(stores: list[GenomeStore]) -> None:
    windows = windows_of(stores, 8)
    shifts = np.array([-3, 9, 100, -100])
    read = [text(row) for row in windows.read(np.array([0, 1, 2, 3]), shifts)]
    assert read == ["NNNACGTT", "GTAACNNN", "NNNNNNNN", "NNNNNNNN"]


def test_reverse_complement_keeps_repeats_on_their_bases(stores: list[GenomeStore]) -> None:
    windows = windows_of(stores, 8)
    flip = np.array([True, False])
    assert [text(row) for row in windows.read(np.array([2, 1]), None, flip)] == ["ggggAAAA", "NNacgtAC"]


@given(
    windows=st.integers(1, 40),
    per_microbatch=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    world_size=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_every_window_comes_once_an_epoch(
    windows: int, per_microbatch: int, accumulation: int, world_size: int, seed: int
) -> None:
    size = per_microbatch * accumulation * world_size
    steps = -(-3 * windows // size)
    stages = [plan(windows, steps, size), plan(windows + 1, 2, size)]
    seen: list[tuple[int, int]] = []
    orders = [
        BatchOrder(stages, seed=seed, accumulation=accumulation, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for microbatch in range(steps * accumulation):
        for order in orders:
            key = order.key(microbatch)
            assert key.stage == 0
            seen += zip(key.epochs.tolist(), key.indices.tolist(), strict=True)
    assert [epoch for epoch, _ in seen] == sorted(epoch for epoch, _ in seen)
    for epoch in range(3):
        assert sorted(index for e, index in seen if e == epoch) == list(range(windows))
    assert all(order.key(steps * accumulation).stage == 1 for order in orders)


@given(cut=st.sampled_from([(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (1, 4)]), step=st.integers(0, 5))
def test_a_step_holds_the_same_windows_however_it_is_cut(cut: tuple[int, int], step: int) -> None:
    accumulation, world_size = cut
    stages = [plan(13, 3, 8), plan(7, 3, 4)]
    whole = BatchOrder(stages, seed=1, accumulation=1).key(step)
    parts = [
        BatchOrder(stages, seed=1, accumulation=accumulation, rank=rank, world_size=world_size).key(
            step * accumulation + part
        )
        for part in range(accumulation)
        for rank in range(world_size)
    ]
    assert np.array_equal(np.concatenate([key.indices for key in parts]), whole.indices)
    assert np.array_equal(np.concatenate([key.epochs for key in parts]), whole.epochs)


def test_batches_depend_on_their_key_alone(stores: list[GenomeStore]) -> None:
    windows = windows_of(stores, 4)
    batches = TrainingBatches([windows, windows], Augmentation(reverse_complement=0.5, max_shift=2), seed=3)
    order = BatchOrder([plan(len(windows), 6, 4), plan(len(windows), 6, 4)], seed=3, accumulation=1)
    keys = list(order)
    forwards = [batches[key] for key in keys]
    backwards = [batches[key] for key in reversed(keys)]
    assert all(torch.equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))
    first, second = torch.cat(forwards[:6]), torch.cat(forwards[6:])
    assert not torch.equal(first, second), "stages must not repeat one another's draws"


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_goes_on_after_the_last_delivered_batch(stores: list[GenomeStore], workers: int) -> None:
    windows = windows_of(stores, 4)
    batches = TrainingBatches([windows], Augmentation(max_shift=1), seed=0)
    stages = [plan(len(windows), 9, 2)]
    expected = [batches[key] for key in BatchOrder(stages, seed=0, accumulation=1)]

    stopped = ResumableLoader(batches, BatchOrder(stages, seed=0, accumulation=1), num_workers=workers)
    iterator = iter(stopped)
    delivered = [next(iterator) for _ in range(4)]
    state = stopped.state_dict()
    iterator.close()  # pyright: ignore[reportAttributeAccessIssue]

    resumed = ResumableLoader(batches, BatchOrder(stages, seed=0, accumulation=1), num_workers=workers)
    resumed.load_state_dict(state)
    delivered += list(resumed)
    assert len(resumed) == len(delivered) == 9
    assert all(torch.equal(a, b) for a, b in zip(delivered, expected, strict=True))


def test_workers_leave_the_first_signals_of_a_scheduler_to_the_run(stores: list[GenomeStore]) -> None:
    windows = windows_of(stores, 4)
    stages = [plan(len(windows), 40, 2)]
    batches = TrainingBatches([windows], Augmentation(), seed=0)
    iterator = iter(ResumableLoader(batches, BatchOrder(stages, seed=0, accumulation=1), num_workers=2))
    delivered = [next(iterator), next(iterator)]  # one of each worker: both are up
    for worker in (workers := multiprocessing.active_children()):
        for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
            os.kill(worker.pid or 0, number)
    delivered += iterator
    assert len(workers) == 2
    assert len(delivered) == 40


def test_loading_leaves_the_global_random_state_alone(stores: list[GenomeStore]) -> None:
    windows = windows_of(stores, 4)
    order = BatchOrder([plan(len(windows), 3, 2)], seed=0, accumulation=1)
    before = torch.get_rng_state()
    list(ResumableLoader(TrainingBatches([windows], Augmentation(), seed=0), order))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_stage_has_the_same_tokens_a_step() -> None:
    schedule = LengthWarmup(
        stages=[Stage(length=2**k, epochs=2) for k in range(10, 21)], tokens_per_step=2**24
    )
    segments = 34_021
    windows = {2**k: segments * 2 ** (17 - k) if k <= 17 else 2 * segments for k in range(10, 21)}
    stages = schedule.plan(windows)
    assert [stage.steps for stage in stages] == [532] * 8 + [2126, 4253, 8505]
    assert {stage.batch_size * stage.length for stage in stages} == {2**24}


def test_stages_in_steps_last_that_long() -> None:
    schedule = LengthWarmup(
        stages=[Stage(length=16, steps=3), Stage(length=32, epochs=0.5)], tokens_per_step=64
    )
    stages = schedule.plan({16: 100, 32: 50})
    assert [stage.steps for stage in stages] == [3, 12]
    assert stages[0].epochs == pytest.approx(3 * 64 / 1600)


@pytest.mark.parametrize(
    ("microbatch", "devices", "message"),
    [
        (96, 1, "not a multiple of 64"),
        (32, 1, "not a multiple of 64"),
        (256, 3, "of 3 devices; take 1, 2, 4"),
    ],
)
def test_steps_that_do_not_divide_are_refused(microbatch: int, devices: int, message: str) -> None:
    schedule = LengthWarmup(stages=[Stage(length=64, steps=1)], tokens_per_step=1024)
    assert schedule.accumulation(256, 2) == 2
    with pytest.raises(ValueError, match=message):
        schedule.accumulation(microbatch, devices)


def test_length_that_does_not_divide_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="not a whole number of windows of 24 tokens"):
        LengthWarmup(stages=[Stage(length=24, steps=1)], tokens_per_step=1024)
