"""Decay gates of the recurrent layers, read while a prompt passes through: how long does an initial state live?

Where a family's decay is projected, and how the projection becomes a log decay, is part of its entry (`Family.decay`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from s0.state.cache import S0Cache, rows_of
from s0.state.families import Layout
from s0.state.initial import InitialState


@torch.no_grad()
def run_prompt(
    model: Any, layout: Layout, prompt_ids: Sequence[int], state: InitialState | None = None, **options: Any
) -> tuple[Any, S0Cache, dict[int, Tensor]]:
    """One unpadded prompt through the model from `state` (None: zero).

    Returns the model's output, the cache holding the states after the prompt, and the log decays: layer -> fp32
    [tokens, heads] on the CPU ([tokens, heads, key dim] where every key channel has its own).
    """
    gates: dict[int, Tensor] = {}
    handles = []
    for i, mixer in layout.mixers.items():
        module, read = layout.family.decay(mixer)

        def hook(module: nn.Module, args: Any, out: Tensor, i: int = i, read: Any = read) -> None:
            gates[i] = read(out[0]).cpu()

        handles.append(module.register_forward_hook(hook))
    cache = S0Cache(layout, rows_of(layout, [state]))
    ids = torch.tensor([list(prompt_ids)], device=next(model.parameters()).device)
    try:
        out = model(input_ids=ids, use_cache=True, **{layout.cache_argument: cache}, **options)
    finally:
        for handle in handles:
            handle.remove()
    return out, cache, gates


def state_of(cache: S0Cache, layer: int) -> Tensor:
    """The recurrent state a cache now holds for its single row: fp32, the layer's state shape, on the CPU."""
    state = cache.get_recurrent_state(layer)
    assert state is not None
    return state[0].float().cpu()


def surviving_energy(gates: dict[int, Tensor], state: InitialState) -> Tensor:
    """Squared norm of what the gates leave of `state` after each token, summed over layers and heads: fp64 [tokens].

    The delta rule's erasure along written keys is not counted, so for GatedDeltaNet this is an upper bound.
    """
    total: Tensor | None = None
    for i, start in state.effective().items():
        squares = start.double().pow(2)
        # per head, or per head and key channel (those states are [heads, key dim, value dim])
        energy = squares.sum(-1) if gates[i].ndim == 3 else squares.flatten(1).sum(1)
        left = (2 * gates[i].double().cumsum(0)).exp().flatten(1) @ energy.flatten()
        total = left if total is None else total + left
    assert total is not None
    return total
