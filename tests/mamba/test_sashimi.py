"""The U-Net equals its plain definition wherever its state is cut, at every phase, of every kind of block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from unet_reference import BLOCKS, codes, naive_logits, small_unet

from bioaudio_mamba import (
    BlockConfig,
    SashimiConfig,
    SequenceClassifier,
    WaveformLM,
    sum_over_chunks,
    with_fixed_systems,
)
from bioaudio_mamba.sashimi import LevelState

LENGTH = 11  # a cycle of six samples, and five more
DOUBLE = OUTPUT_RTOL[torch.float64]
every_block = pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())


def assert_same_leaves(actual: Any, expected: Any, rtol: float) -> None:
    for ours, theirs in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        assert_close(ours, theirs, rtol, "state")


def gradients(loss: Tensor, model: WaveformLM) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, list(model.parameters()))


def squared(logits: Tensor) -> Tensor:
    """A loss to which every position matters."""
    return logits.square().sum()


@every_block
@pytest.mark.parametrize("unet", [True, False])
def test_the_network_equals_its_plain_definition(block: BlockConfig, unet: bool) -> None:
    model, tokens = small_unet(block, unet=unet), codes(2, LENGTH)
    expected, actual = naive_logits(model, tokens), model(tokens)[0]
    assert_close(actual, expected, DOUBLE, "logits")
    for ours, theirs in zip(
        gradients(squared(actual), model), gradients(squared(expected), model), strict=True
    ):
        assert_close(ours, theirs, GRADIENT_RTOL[torch.float64], "gradient")


@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": ()},
        {"pooling": (1, 3), "n_layer": 1},
        {"pooling": (4,), "norm": "layer", "pool_expand": 3},
        {"pooling": (2, 2, 2), "n_layer": 1, "pool_gain": True},
        {"pooling": (2, 3), "n_layer": 3, "n_classes": 3},
    ],
    ids=str,
)
def test_so_do_other_shapes_whole_and_by_step(changes: dict[str, Any]) -> None:
    model, tokens = small_unet(**changes), codes(2, 19)
    labels = torch.tensor([2, 0]) if changes.get("n_classes") else None
    expected = naive_logits(model, tokens, labels)
    options = {} if labels is None else {"labels": labels}
    assert_close(model(tokens, **options)[0], expected, DOUBLE, "logits")
    state, steps = model.initial_state(2), []
    for column in tokens.unbind(1):
        logits, state = model.step(column, state, **options)
        steps.append(logits)
    assert_close(torch.stack(steps, 1), expected, DOUBLE, "logits of steps")


@every_block
def test_pieces_equal_the_whole_wherever_the_cut(block: BlockConfig) -> None:
    model, tokens = small_unet(block), codes(2, LENGTH)
    whole, state = model(tokens)
    for cut in (0, 1, 2, 3, 5, 6, 10, LENGTH):
        first, between = model(tokens[:, :cut])
        kept = tree_map(torch.clone, between)
        second, end = model(tokens[:, cut:], between)
        assert_close(torch.cat([first, second], 1), whole, DOUBLE, f"logits cut at {cut}")
        assert_same_leaves(end, state, DOUBLE)
        assert all(map(torch.equal, tree_leaves(between), tree_leaves(kept))), "a state was changed"


@every_block
def test_steps_equal_the_whole_at_every_phase(block: BlockConfig) -> None:
    model, tokens = small_unet(block), codes(2, LENGTH)
    whole, end = model(tokens)
    for start in (0, 4):  # from the first sample, and from where a parallel pass left off
        state = model(tokens[:, :start])[1]
        for t in range(start, LENGTH):
            logits, state = model.step(tokens[:, t], state)
            assert_close(logits, whole[:, t], DOUBLE, f"logits at {t}")
        assert_same_leaves(state, end, DOUBLE)


@every_block
def test_no_gradient_comes_from_the_future(block: BlockConfig) -> None:
    model, tokens = small_unet(block), codes(1, LENGTH)
    embedded: list[Tensor] = []
    model.backbone.embeddings.register_forward_hook(lambda *call: embedded.append(call[-1]))
    logits = model(tokens)[0]
    for t in range(LENGTH):
        (gradient,) = torch.autograd.grad(squared(logits[:, t]), embedded[0], retain_graph=True)
        reached = gradient[0].abs().sum(-1) > 0
        assert not reached[t + 1 :].any(), f"position {t} reads the future"
        assert reached[: t + 1].all(), f"position {t} does not read all of the past"


@every_block
def test_gradients_in_chunks_of_time_equal_one_pass(block: BlockConfig) -> None:
    """From a state in the middle of a cycle too, whose own gradient is checked with the others."""
    model, tokens, targets = small_unet(block), codes(2, LENGTH), codes(2, LENGTH + 1)[:, 1:]
    state = tree_map(lambda leaf: leaf.detach().requires_grad_(), model(codes(2, 4))[1])
    leaves = [*model.parameters(), *tree_leaves(state)]

    def chunk(start: int, end: int, before: Any) -> tuple[Tensor, Any]:
        nll, after = model.nll(tokens[:, start:end], targets[:, start:end], before)
        return nll.sum(), after

    def total(loss: Tensor, end: Any) -> Tensor:
        return loss + sum((leaf.abs() ** 2).sum() for leaf in tree_leaves(end))

    expected = total(*chunk(0, LENGTH, state))
    actual = total(*sum_over_chunks(model, chunk, LENGTH, 4, state))
    assert_close(actual, expected, DOUBLE, "loss")
    pairs = zip(
        *(torch.autograd.grad(loss, leaves, allow_unused=True) for loss in (actual, expected)), strict=True
    )
    for ours, one_pass in pairs:
        assert (ours is None) == (one_pass is None)
        if ours is not None and one_pass is not None:
            assert_close(ours, one_pass, GRADIENT_RTOL[torch.float64], "gradient")


def test_levels_may_have_blocks_of_their_own() -> None:
    model = small_unet(BLOCKS["mamba-s4"], BLOCKS["s4"], BLOCKS["attention"])
    tokens = codes(2, LENGTH)
    assert_close(model(tokens)[0], naive_logits(model, tokens), DOUBLE, "logits")


def test_a_level_steps_only_when_it_is_its_turn() -> None:
    model, calls = small_unet(), [0, 0, 0]
    level: Any = model.backbone.level
    for depth, layer in enumerate((level.up[0], level.below.up[0], level.below.below.layers[0])):
        step = layer.mixer.step

        def counted(*arguments: Any, depth: int = depth, step: Any = step) -> Any:
            calls[depth] += 1
            return step(*arguments)

        layer.mixer.step = counted
    state = model.initial_state(1)
    for column in codes(1, 2 * model.config.cycle).unbind(1):
        _, state = model.step(column, state)
    assert calls == [12, 4, 2]


def test_the_shapes_of_a_state_repeat_after_a_cycle() -> None:
    model = small_unet(BLOCKS["mamba-s4"])
    state = model.initial_state(2)
    shapes, phases = [leaf.shape for leaf in tree_leaves(state)], []
    for column in codes(2, model.config.cycle).unbind(1):
        _, state = model.step(column, state)
        assert isinstance(state, LevelState)
        phases.append(state.waiting.shape[1])
    assert phases == [1, 2, 0, 1, 2, 0]
    assert [leaf.shape for leaf in tree_leaves(state)] == shapes


@pytest.mark.parametrize("chunk_length", [1, 7, 100])
def test_prefill_equals_the_whole(chunk_length: int) -> None:
    model, tokens = small_unet(n_classes=2), codes(2, LENGTH)
    labels = torch.tensor([1, 0])
    expected, expected_state = model(tokens, labels=labels)
    logits, state = model.prefill(tokens, chunk_length=chunk_length, labels=labels)
    assert_close(logits, expected[:, -1], DOUBLE, "logits")
    assert_same_leaves(state, expected_state, DOUBLE)


@pytest.mark.parametrize("name", ["mamba-s4", "s4", "real bilinear s4", "mamba"])
def test_a_copy_with_fixed_systems_gives_the_same(name: str) -> None:
    model, tokens = small_unet(BLOCKS[name]), codes(2, 8)
    fixed = with_fixed_systems(model)
    (expected, state), (actual, fixed_state) = model(tokens[:, :7]), fixed(tokens[:, :7])
    assert_close(actual, expected, DOUBLE, "logits")
    expected, state = model.step(tokens[:, 7], state)
    actual, fixed_state = fixed.step(tokens[:, 7], fixed_state)
    assert_close(actual, expected, DOUBLE, "logits of a step")
    assert_same_leaves(fixed_state, state, DOUBLE)
    assert_same_leaves(fixed.initial_state(1), model.initial_state(1), DOUBLE)
    assert not any(tensor.requires_grad for tensor in (actual, *tree_leaves(fixed_state)))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_blocks_made_again_give_the_same_gradients() -> None:
    model, tokens = small_unet(BLOCKS["mamba-s4"], BLOCKS["s4"], BLOCKS["complex mamba"]), codes(2, LENGTH)
    expected = gradients(squared(model(tokens)[0]), model)
    model.backbone.checkpoint_blocks = True
    actual = gradients(squared(model(tokens)[0]), model)
    assert all(map(torch.equal, actual, expected))


def test_half_precision_stays_close_to_single() -> None:
    model = small_unet(BLOCKS["mamba-s4"], BLOCKS["s4"], BLOCKS["complex mamba"], d_model=16).float()
    tokens = codes(2, 64)
    exact = model.backbone(tokens)[0]
    with torch.autocast("cpu", torch.bfloat16):
        hidden, state = model.backbone(tokens)
        _, state = model.backbone.step(tokens[:, 0], state)
    assert_close(hidden.float(), exact, OUTPUT_RTOL[torch.bfloat16])
    assert {leaf.dtype for leaf in tree_leaves(state)} <= {torch.bfloat16, torch.float32, torch.complex64}


def test_fresh_weights_come_from_the_generator_alone() -> None:
    config = SashimiConfig(d_model=4, n_layer=1, blocks=tuple(list(BLOCKS.values())[1:4]), n_classes=2)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = (WaveformLM(config, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    second.reset_parameters(torch.Generator().manual_seed(3))
    assert not any(parameter.isnan().any() for parameter in second.parameters())
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert a.shape == b.shape, name
    with torch.device("meta"):
        empty = WaveformLM(config)
    empty.to_empty(device="cpu").reset_parameters(torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(empty.parameters(), second.parameters(), strict=True))


def test_labels_are_asked_for_and_checked() -> None:
    tokens = codes(2, 3)
    with pytest.raises(ValueError, match="labels are missing, but the model has n_classes = 2"):
        small_unet(n_classes=2)(tokens)
    with pytest.raises(ValueError, match="labels are given, but the model has n_classes = 0"):
        small_unet()(tokens, labels=torch.tensor([0, 1]))
    for wrong, found in ((2, r"\[0, 2\]"), (-2, r"\[-2, 0\]")):
        with pytest.raises(ValueError, match=f"labels lie in {found}, n_classes is 2"):
            small_unet(n_classes=2)(tokens, labels=torch.tensor([0, wrong]))


def test_told_no_label_a_network_is_one_without_classes() -> None:
    model, plain, tokens = small_unet(n_classes=3), small_unet(), codes(3, LENGTH)
    known = {name: weight for name, weight in model.state_dict().items() if "class_embeddings" not in name}
    plain.load_state_dict(known)
    mixed = model(tokens, labels=torch.tensor([-1, 2, -1]))[0]
    assert torch.equal(mixed[::2], plain(tokens)[0][::2])
    assert not torch.equal(mixed[1], plain(tokens)[0][1])
    mixed[0].sum().backward()
    assert not model.get_parameter("backbone.class_embeddings.weight").grad.any()  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize("changes", [{"pooling": (2, 2)}, {"pooling": (3,)}, {"n_layer": 2}, {"unet": False}])
def test_the_state_of_another_network_is_refused(changes: dict[str, Any]) -> None:
    state = small_unet(**changes).initial_state(1)
    with pytest.raises(ValueError, match="state is that of a network with other levels"):
        small_unet()(codes(1, 3), state)
    with pytest.raises(ValueError, match="state is that of a network with other levels"):
        small_unet().step(codes(1, 3)[:, 0], state)


def test_a_classifier_reads_waveforms_in_chunks_too() -> None:
    classifier = SequenceClassifier(small_unet().backbone, 3, "mean").double()
    tokens, lengths = codes(2, LENGTH), torch.tensor([LENGTH, 5])
    expected, actual = classifier(tokens, lengths), classifier(tokens, lengths, chunk_length=4)
    assert_close(actual, expected, DOUBLE, "logits")


def test_packed_and_shared_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="cu_seqlens must be None"):
        small_unet()(codes(1, 6), cu_seqlens=torch.tensor([0, 3, 6]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": (4, 0)}, "pooling must be a positive integer, got 0"),
        ({"n_layer": 0}, "n_layer must be a positive integer"),
        ({"blocks": (BlockConfig(),) * 2}, "blocks holds 2 blocks; 2 poolings make 3 levels, so give 1 or 3"),
        ({"n_classes": -1}, "n_classes must be 0 or more, got -1"),
        ({"norm_eps": 0.0}, "norm_eps must be positive"),
    ],
)
def test_sizes_that_make_no_network_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SashimiConfig(**changes)
