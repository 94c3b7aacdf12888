"""Caches that start from S0: `S0Cache` in inference, `TrainingCache` in one differentiable pass, and any fresh cache
(`seed_cache`)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from s0.errors import ArchitectureError
from s0.state import compat
from s0.state.families import Layout, device_of_layer
from s0.state.initial import InitialState

#: layer index -> tensor [batch, *state shape], fp32
Rows = Mapping[int, Tensor]


def rows_of(layout: Layout, states: list[InitialState | None]) -> dict[int, Tensor]:
    """Stack one state per batch row: layer -> fp32 [len(states), *shape] on the layer's device. None is the zero state."""
    effective: dict[int, dict[int, Tensor]] = {}
    for s in states:
        if s is not None and id(s) not in effective:
            s.check(layout)
            effective[id(s)] = s.effective()
    # a layer that starts at zero in every row is left to the model itself: the same kernels run as without any state
    used = {i for e in effective.values() for i, t in e.items() if bool(t.any())}
    rows = {}
    for i in sorted(used):
        zero = torch.zeros(layout.shapes[i])
        stacked = torch.stack([zero if s is None else effective[id(s)].get(i, zero) for s in states])
        rows[i] = stacked.to(device_of_layer(layout.mixers[i]))
    return rows


class S0Cache(DynamicCache):
    """A `DynamicCache` whose recurrent layers start from `rows` (layer -> [batch, *shape]) instead of zero.

    The running state is a copy of `rows`: single-token kernels update it in place. Continuing the cache is safe, because only an
    untouched layer answers with S0; afterwards the buffer holds the running state. Layers missing in `rows` start at zero.
    `reset()` returns to S0.
    """

    def __init__(self, layout: Layout, rows: Rows):
        super().__init__(config=layout.text_config)
        #: put into a call that wants no cache back
        self.unasked = False
        self._s0_start = {i: t.detach() for i, t in compat.complete(rows, layout.shapes, layout.mixers).items()}
        self._s0_layout = layout
        self._seed()

    def _seed(self) -> None:
        for i, start in self._s0_start.items():
            compat.start_layer(self.layers[i], self._s0_layout.mixers[i], start.clone(), announce=False)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        if layer_idx in self._s0_start and state_idx == 0:
            layer: Any = self.layers[layer_idx]
            return layer.recurrent_states[0]
        return super().get_recurrent_state(layer_idx, state_idx)

    def reset(self) -> None:
        # new layers: reset() of transformers 5.16 and 5.17 leaves attention keys of zeros with their old length
        self.layers = DynamicCache(config=self._s0_layout.text_config).layers
        self._seed()


class TrainingCache(DynamicCache):
    """One forward pass, nothing stored: gradients flow from the loss to `rows` (in-place cache updates would cut them).

    Always pass it in training, even for states of zero: some models take a fused path without initial state otherwise.
    """

    def __init__(self, layout: Layout, rows: Rows):
        super().__init__(config=layout.text_config)
        self._rows = compat.complete(rows, layout.shapes, layout.mixers)
        self._factors: dict[int, Tensor] = {}
        if not compat.mixers_ask():
            for i in self._rows:
                compat.answer_reads(self.layers[i], layout.mixers[i], functools.partial(self._start, i))

    def scale_start(self, layer_idx: int, factor: Tensor) -> None:
        """Multiply a layer's start by `factor`, broadcast to [batch, *shape] (see `exact_pads`)."""
        self._factors[layer_idx] = factor

    def _start(self, layer_idx: int) -> Tensor:
        # a copy, because a one-token call updates what it is given in place
        start = self._rows[layer_idx]
        return start * self._factors[layer_idx] if layer_idx in self._factors else start.clone()

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return self._start(layer_idx) if state_idx == 0 and layer_idx in self._rows else None

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        if compat.mixers_ask():
            return super().has_previous_state(layer_idx, state_idx)
        return bool(self._rows) and not state_idx if layer_idx is None else layer_idx in self._rows and not state_idx

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return None

    def update_conv_state(self, conv_states: Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any) -> Tensor:
        return conv_states

    def update_recurrent_state(self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **kw: Any) -> Tensor:
        return recurrent_states

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kw: Any) -> Any:
        if hasattr(self.layers[layer_idx], "update_indexer"):  # its sparse indexer reads the stored keys
            return super().update(key_states, value_states, layer_idx, *args, **kw)
        return key_states, value_states


def is_fresh(cache: Any, layout: Layout) -> bool:
    """True if no token has passed through the cache's recurrent layers yet."""
    layers = [cache.layers[i] for i in layout.layers if i < len(cache.layers)]
    return not any(getattr(layer, "has_previous_state", {0: False})[0] for layer in layers)


def seed_cache(cache: Any, layout: Layout, rows: Rows) -> None:
    """Write `rows` into a fresh cache made by somebody else (for example by `model.generate`).

    `has_previous_state` makes the layer answer with the seeded tensor; the convolution then reads a window of zeros,
    which equals the zero padding of a first call. Raises ArchitectureError where the cache has no recurrent layers.
    """
    for i, t in compat.complete(rows, layout.shapes, layout.mixers).items():
        layer = cache.layers[i] if i < len(cache.layers) else None
        if layer is None or not hasattr(layer, "recurrent_states"):
            raise ArchitectureError(
                f"past_key_values ({type(cache).__name__}): layer {i} holds no recurrent state; "
                "build it with DynamicCache(config=model.config) or pass none"
            )
        compat.start_layer(layer, layout.mixers[i], t.detach().clone(), announce=True)
