"""What a model keeps for the backward pass, and that keeping less changes no number."""

from __future__ import annotations

import gc
from dataclasses import replace

import torch
from bioaudio_kernels.recompute import keeping_all
from torch import Tensor
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef

from bioaudio_mamba import CausalLM, MambaConfig

CONFIG = MambaConfig(d_model=64, n_layer=2, d_state=4)
# Bytes of a token in a layer under bfloat16 autocast. The scan on the CPU keeps every 32nd step's states.
RESIDUAL, RSTD = 4 * CONFIG.d_model, 4
XZ, Y, STATES = 4 * CONFIG.d_inner, 2 * CONFIG.d_inner, 4 * CONFIG.d_inner * CONFIG.d_state // 32
SELECTION = 2 * (CONFIG.rank + 2 * CONFIG.d_state)


def small_model(n_layer: int = 2, *, blocks: bool = False) -> CausalLM:
    model = CausalLM(replace(CONFIG, n_layer=n_layer), torch.Generator().manual_seed(0))
    model.backbone.checkpoint_blocks = blocks
    return model


def loss_of(model: CausalLM, length: int = 40) -> Tensor:
    tokens = torch.randint(16, (1, length), generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        return model.nll(tokens, tokens.roll(-1, 1))[0].sum()


def gradients(model: CausalLM) -> list[Tensor]:
    return list(torch.autograd.grad(loss_of(model), list(model.parameters())))


def kept_bytes(n_layer: int, length: int) -> int:
    """Of all that autograd saves, a storage once."""
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    model = small_model(n_layer)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(model, length)
    storages = [tensor.untyped_storage() for tensor in saved]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def assert_same_bits(one: list[Tensor], other: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_checkpointed_blocks_give_the_same_bits_and_keep_their_names() -> None:
    full, blocks = small_model(), small_model(blocks=True)
    assert full.state_dict().keys() == blocks.state_dict().keys()
    assert_same_bits(gradients(full), gradients(blocks))


def test_what_is_made_again_has_the_same_bits() -> None:
    model = small_model()
    made_again = gradients(model)
    with keeping_all():
        assert_same_bits(gradients(model), made_again)


def test_what_is_made_again_has_the_weights_of_the_forward_pass() -> None:
    """Of a functional call, after which the module has its own weights back."""
    model = small_model()
    weights = {
        name: (1.5 * weight + 0.1).detach().requires_grad_() for name, weight in model.named_parameters()
    }

    def gradients_of_call() -> list[Tensor]:
        logits, _ = functional_call(model, weights, (torch.arange(7, 11)[None],))
        return list(torch.autograd.grad(logits.square().sum(), list(weights.values())))

    made_again = gradients_of_call()
    with keeping_all():
        assert_same_bits(gradients_of_call(), made_again)


def test_a_layer_keeps_what_is_dear_to_compute() -> None:
    three, one = (kept_bytes(n_layer, 192) - kept_bytes(n_layer, 96) for n_layer in (3, 1))
    assert three - one == 2 * 96 * (RESIDUAL + RSTD + XZ + SELECTION + STATES + Y)


def test_a_pass_that_nobody_differentiates_frees_what_it_kept() -> None:
    """At once, not when Python next looks for cycles."""
    model, kept = small_model(), list[StorageWeakRef]()
    for layer in model.backbone.layers:
        layer.register_forward_hook(lambda *call: kept.append(StorageWeakRef(call[-1][0].untyped_storage())))
    gc.disable()
    try:
        loss = loss_of(model)
        assert not any(storage.expired() for storage in kept)
        del loss
        assert all(storage.expired() for storage in kept)
    finally:
        gc.enable()


def test_what_is_kept_can_be_offloaded() -> None:
    model = small_model()
    expected = gradients(model)
    with save_on_cpu():
        loss = loss_of(model)
    assert_same_bits(list(torch.autograd.grad(loss, list(model.parameters()))), expected)
