"""Estimates of the activations that a training step holds, by what is kept of them (see `memory`).

Counted are the tensors that the layers keep, and those that are alive while one of them runs backward.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from bioaudio_mamba import BlockConfig, MambaConfig, SashimiConfig

Mode = Literal["full", "blocks", "chunks"]
SCAN_STEPS_ON_CPU, SCAN_STEPS_ON_GPU = 32, 256
"""The selective scan keeps a float32 state every so many steps (on a GPU up to twice as many)."""


class _Layers(NamedTuple):
    """Bytes per step of the layers of one block."""

    kept: int
    """Of all activations."""
    entering: int
    """Of what enters the layers: all that is kept if they run again."""
    backward: int
    """Alive while one of them runs backward."""


def bytes_per_token(
    config: MambaConfig, mode: Mode, *, half: bool, on_gpu: bool, compiled: bool = False
) -> int:
    """Most bytes of activations that a training step holds, per token (per token of a chunk for chunks).

    Args:
        config: sizes of the model.
        mode: what is kept.
        half: whether products run in half precision.
        on_gpu: whether that is on a GPU.
        compiled: whether torch.compile decides what is made again, which it does less often.
    """
    size = 2 if half else 4
    block = BlockConfig(d_state=config.d_state, expand=config.expand)
    layer = _mamba(config.d_model, config.rank, block, size, on_gpu)
    if compiled:
        layer = _compiled(layer, config.d_model, block, size)
    head = (4 + size) * config.d_model + 40  # the last norm; targets, losses and weights
    if mode == "blocks":
        return config.n_layer * layer.entering + layer.kept + layer.backward + head
    return config.n_layer * layer.kept + layer.backward + head


def bytes_per_sample(
    config: SashimiConfig, mode: Mode, *, half: bool, on_gpu: bool, compiled: bool = False
) -> int:
    """`bytes_per_token` of a network over waveforms: each level at its own rate."""
    size = 2 if half else 4
    total, alive, rate = 0.0, 0.0, 1
    for level in range(config.n_levels):
        width, block = config.width(level), config.block(level)
        layer = _layers(width, block, size, on_gpu)
        if compiled:
            layer = _compiled(layer, width, block, size)
        is_centre = level == config.n_levels - 1
        blocks = config.n_layer * (1 if is_centre or not config.unet else 2)
        total += blocks * (layer.entering if mode == "blocks" else layer.kept) / rate
        if not is_centre:  # both sides of the pools, in float32
            total += 16 * width / rate
        alive = max(alive, (layer.backward + (layer.kept if mode == "blocks" else 0)) / rate)
        rate *= 1 if is_centre else config.pooling[level]
    head = (4 + size) * config.d_model + 40
    return round(total + alive + head)


def _compiled(layer: _Layers, width: int, block: BlockConfig, size: int) -> _Layers:
    """With the norm, the convolution and dt, which else are made again."""
    return layer._replace(kept=layer.kept + size * (1 + 2 * block.expand) * width)


def _layers(width: int, block: BlockConfig, size: int, on_gpu: bool) -> _Layers:
    match block.kind:
        case "mamba":
            rank = block.dt_rank or MambaConfig(d_model=width, n_layer=1).rank
            return _mamba(width, rank, block, size, on_gpu)
        case "mamba-s4":
            inner = block.expand * width
            kept = 4 * width + 3 * size * inner  # x, z and y; the scan keeps hardly any states
            return _Layers(kept, (4 + size) * width, 8 * width + 28 * inner)
        case "s4":
            mixer = (4 + size) * width + 4 * size * width
            mixer_backward = 8 * width + 40 * width
        case "attention":
            mixer = (4 + size) * width + 5 * size * width
            mixer_backward = 8 * width + 8 * size * width
    forward = (4 + size) * width + 2 * size * block.expand * width
    return _Layers(mixer + forward, 2 * (4 + size) * width, mixer_backward + 2 * size * block.expand * width)


def _mamba(width: int, rank: int, block: BlockConfig, size: int, on_gpu: bool) -> _Layers:
    inner, states = block.expand * width, block.real_size
    residual, wide, narrow = 4 * width, size * inner, size * width
    selection = size * (rank + 2 * states)
    steps = SCAN_STEPS_ON_GPU if on_gpu else SCAN_STEPS_ON_CPU
    kept_states = 4 * inner * states // steps
    kept = residual + 2 * wide + selection + kept_states + wide  # x and z; dt, B and C; states; y
    # Made again: the norm, u and dt. Gradients: of the residual, y, u (twice), dt, x and z; the compiled CPU
    # kernels work on float32 copies of all they read and write.
    gradients = inner * (6 * size if on_gpu else 14 * 4) + 2 * residual
    return _Layers(kept, residual + narrow, narrow + 2 * wide + gradients)
