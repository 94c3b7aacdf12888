"""The cache of the batched decode loop: a fixed number of slots, each holding one row at its own position.

Attention layers keep left-aligned keys and values [slots, kv heads, capacity, head dim] with a write position per slot;
recurrent layers keep their convolution window and state per slot. A finished row's slot is overwritten by the next
prefilled row, or by a copy of a row that forks, so rows of different prompts, states and ages decode together without any
padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from s0.state.families import Layout

#: capacity and attended length grow in steps of this many tokens: few shapes, and no dependence on batch mates
STEP = 64


def round_up(n: int, step: int = STEP) -> int:
    return -(-n // step) * step


def row_bytes(model: Any, layout: Layout | None, length: int) -> int:
    """Bytes one slot needs: fp32 states plus keys and values of `length` tokens in the model's dtype."""
    config = model.config.get_text_config(decoder=True)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    attention = sum(k in ("full_attention", "hybrid", "attention") for k in kinds)
    heads = getattr(config, "num_key_value_heads", 0) or 0
    dim = getattr(config, "head_dim", None) or config.hidden_size // max(getattr(config, "num_attention_heads", 1), 1)
    width = next(model.parameters()).element_size()
    return (layout.bytes_per_row() if layout else 0) + 2 * attention * heads * dim * width * round_up(length) + 1


@dataclass
class SharedPrefix:
    """What one prefilled row left behind: per layer keys/values [kv heads, length, head dim], windows and states, and the
    logits [vocab] that predict the first new token."""

    length: int
    keys: dict[int, Tensor]
    values: dict[int, Tensor]
    windows: dict[tuple[int, int], Tensor]
    states: dict[tuple[int, int], Tensor]
    logits: Tensor


def harvest(cache: DynamicCache, row: int, length: int, logits: Tensor) -> SharedPrefix:
    """Take row `row` out of a prefilled cache (views; the slots copy them)."""
    prefix = SharedPrefix(length, {}, {}, {}, {}, logits)
    layers: list[Any] = list(cache.layers)
    for i, layer in enumerate(layers):
        keys = getattr(layer, "keys", None)
        if keys is not None and keys.numel():
            prefix.keys[i], prefix.values[i] = keys[row], layer.values[row]
        for name, store in (("conv_states", prefix.windows), ("recurrent_states", prefix.states)):
            for n, t in (getattr(layer, name, None) or {}).items():
                if t is not None:
                    store[i, n] = t[row]
    return prefix


class SlotCache(DynamicCache):
    """See the module docstring. `lengths` [slots] is where each slot writes its next key, known on the host; `positions`
    its copy on the device, renewed before a step; `attended` how many key positions a decode step looks at (the rest is
    masked)."""

    def __init__(self, text_config: Any, slots: int, device: torch.device):
        super().__init__(config=text_config)
        self.slots, self.device = slots, device
        self.lengths = np.zeros(slots, dtype=np.int64)
        self.positions = torch.zeros(slots, dtype=torch.long, device=device)
        self.rows = torch.arange(slots, device=device)
        self.attended = 0
        self.capacity = 0
        self.kv: dict[int, tuple[Tensor, Tensor]] = {}
        #: keep buffers at fixed addresses (needed by CUDA graphs); otherwise new states are taken over without a copy
        self.static = False

    # -- rows in and out --------------------------------------------------------------------------------------------

    def reserve(self, length: int) -> None:
        """Grow the key/value buffers to at least `length` positions."""
        if length <= self.capacity:
            return
        new = round_up(length)
        for i, (k, v) in self.kv.items():
            self.kv[i] = (_grown(k, new), _grown(v, new))
        self.capacity = new

    def admit(self, slots: list[int], prefixes: list[SharedPrefix]) -> None:
        """Copy prefilled rows into `slots`, one each."""
        self.reserve(max(p.length for p in prefixes) + 1)
        index = torch.tensor(slots, device=self.device)
        for i in prefixes[0].keys:
            if i not in self.kv:
                heads, _, dim = prefixes[0].keys[i].shape
                shape = (self.slots, heads, self.capacity, dim)
                self.kv[i] = (prefixes[0].keys[i].new_zeros(shape), prefixes[0].values[i].new_zeros(shape))
            k, v = self.kv[i]
            for slot, p in zip(slots, prefixes, strict=True):
                k[slot, :, : p.length] = p.keys[i]
                v[slot, :, : p.length] = p.values[i]
        for name, flag, part in (
            ("conv_states", "is_conv_states_initialized", "windows"),
            ("recurrent_states", "is_recurrent_states_initialized", "states"),
        ):
            for (i, n), t in getattr(prefixes[0], part).items():
                layer: Any = self.layers[i]
                store = getattr(layer, name)
                if store[n] is None:
                    store[n] = t.new_zeros((self.slots, *t.shape))
                    getattr(layer, flag)[n] = True
                    layer.has_previous_state[n] = True
                    if name == "conv_states":
                        layer.device, layer.dtype = t.device, t.dtype
                        layer.conv_kernel_size[n] = t.shape[-1]
                store[n][index] = torch.stack([getattr(p, part)[i, n] for p in prefixes])
        self.lengths[slots] = [p.length for p in prefixes]

    def running(self) -> Iterator[tuple[dict[int, Any], int]]:
        """Where windows and states are kept: (dictionary, key) of each."""
        for layer in self.layers:
            for name in ("conv_states", "recurrent_states"):
                store = getattr(layer, name, None) or {}
                yield from ((store, n) for n, t in store.items() if t is not None)

    def fork(self, sources: np.ndarray, copies: np.ndarray) -> None:
        """Copy the rows in slots `sources` [m] into slots `copies` [m]; no slot is in both."""
        source, copy = torch.from_numpy(sources).to(self.device), torch.from_numpy(copies).to(self.device)
        length = int(self.lengths[sources].max())
        for k, v in self.kv.values():
            k[copy, :, :length] = k[source, :, :length]
            v[copy, :, :length] = v[source, :, :length]
        for store, n in self.running():
            store[n][copy] = store[n][source]
        self.lengths[copies] = self.lengths[sources]

    def keep(self, slots: np.ndarray) -> None:
        """Become the rows in `slots` [m], in that order; m may be larger than before, rows may be repeated."""
        index = torch.from_numpy(slots).to(self.device)
        for i, (k, v) in self.kv.items():
            self.kv[i] = (k[index], v[index])
        for store, n in self.running():
            store[n] = store[n][index]
        self.lengths = self.lengths[slots]
        self.positions = self.positions[index]
        self.slots = len(slots)
        self.rows = torch.arange(self.slots, device=self.device)

    # -- what the model calls in a decode step ----------------------------------------------------------------------

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kw: Any) -> Any:
        k, v = self.kv[layer_idx]
        k[self.rows, :, self.positions] = key_states[:, :, 0]
        v[self.rows, :, self.positions] = value_states[:, :, 0]
        return k[:, :, : self.attended], v[:, :, : self.attended]

    def update_recurrent_state(self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **kw: Any) -> Tensor:
        layer: Any = self.layers[layer_idx]
        store = layer.recurrent_states
        if self.static:
            store[state_idx].copy_(recurrent_states)
        else:
            store[state_idx] = recurrent_states
        kept: Tensor = store[state_idx]
        return kept

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return max(self.attended - 1, 0)


def _grown(t: Tensor, capacity: int) -> Tensor:
    out = t.new_zeros((*t.shape[:2], capacity, t.shape[3]))
    out[:, :, : t.shape[2]] = t
    return out
