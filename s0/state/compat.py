"""What transformers' recurrent mixers take and read: the one file that knows how versions of transformers differ.

Nothing here compares version numbers. Two features are looked at:

- the name of the cache argument: `cache` from 5.24 on, `past_key_values` before, `cache_params` in mixers and in pure
  Mamba-2 models before (source: the signatures in `modeling_*.py`; 5.24 renames with `@deprecate_kwarg`)
- how a mixer gets its window and state: it *asks* `cache.get_conv_state(i)` and `cache.get_recurrent_state(i)`, each of
  which may be None by itself (from 5.21 on), or it *reads* `cache.layers[i].conv_states[0]` and `.recurrent_states[0]` as
  soon as `cache.has_previous_state(i)` is true (before), which needs both

For mixers that read, a layer with a start gets a window of zeros as well: joined to the left of the first tokens it equals
the zero padding of a first call, bit for bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

#: names of the cache argument, newest first
CACHE_NAMES = ("cache", "past_key_values", "cache_params")


def cache_argument(module: nn.Module) -> str:
    """Keyword under which `module` takes its cache; another name would be swallowed by **kwargs without a word."""
    names = inspect.signature(module.forward).parameters
    return next((name for name in CACHE_NAMES if name in names), "past_key_values")


def takes_positions(module: nn.Module) -> bool:
    """Whether a backbone numbers its tokens."""
    return "position_ids" in inspect.signature(module.forward).parameters


def passed_cache(args: Any, kwargs: Mapping[str, Any], position: int | None = None) -> Any:
    """The cache of a call, under whatever name or at argument `position`; None where there is none."""
    for name in CACHE_NAMES:
        if kwargs.get(name) is not None:
            return kwargs[name]
    return args[position] if position is not None and len(args) > position else None


def without_cache(output: Any, cache: Any) -> Any:
    """A model's output without `cache` in it (a ModelOutput or a tuple)."""
    if isinstance(output, tuple):
        return tuple(part for part in output if part is not cache)
    if any(part is cache for part in output.values()):
        return type(output)(**{name: part for name, part in output.items() if part is not cache})
    return output


def mixers_ask() -> bool:
    """Whether mixers ask the cache for window and state (True) or read its layers (False); see the module docstring."""
    return hasattr(Cache, "get_recurrent_state")


def device_of(module: nn.Module) -> torch.device:
    """Device `module` computes on: that of its weights, or, while they are offloaded (meta), the one they are brought to."""
    for parameter in module.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    for part in module.modules():  # accelerate's hook of an offloaded module
        device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return torch.device("meta")


def complete(rows: Mapping[int, Tensor], shapes: Mapping[int, tuple[int, ...]], mixers: Mapping[int, nn.Module]) -> Any:
    """`rows` (layer -> [batch, *shape]), with zeros for the layers it lacks where mixers read: OLMo hybrid's ask whether
    the *last* recurrent layer has a state and conclude that theirs has one."""
    if mixers_ask() or not rows:
        return rows
    batch = next(iter(rows.values())).shape[0]
    zeros = {i: torch.zeros(batch, *shapes[i], device=device_of(mixers[i])) for i in shapes if i not in rows}
    return {**zeros, **rows}


def window(mixer: Any, batch: int) -> Tensor:
    """[batch, channels, kernel size] convolution window of a layer that has seen no token."""
    weight: Tensor = mixer.conv1d.weight
    return torch.zeros(batch, weight.shape[0], weight.shape[-1], dtype=weight.dtype, device=device_of(mixer))


def open_window(layer: Any, mixer: Any, batch: int) -> None:
    """Give a cache layer that has seen no token an empty window, so that mixers which read find window and state."""
    if not layer.is_conv_states_initialized[0]:
        empty = window(mixer, batch)
        layer.lazy_initialization(conv_states=empty, state_idx=0, conv_kernel_size=empty.shape[-1])
    layer.has_previous_state[0] = True
    layer.s0_open = True


def start_layer(layer: Any, mixer: Any, start: Tensor, announce: bool) -> None:
    """Let a cache layer begin with `start` [batch, *shape] (taken over, not copied). `announce` marks it as a layer with a
    state, which mixers that ask need unless the cache answers for it."""
    layer.recurrent_states[0] = start
    # beam search reorders only states that are marked as initialised
    layer.is_recurrent_states_initialized[0] = True
    layer.s0_right_padded = False
    if not mixers_ask():
        open_window(layer, mixer, start.shape[0])
    elif announce:
        layer.has_previous_state[0] = True


def has_seen_tokens(layer: Any) -> bool:
    """Whether tokens have passed through a recurrent layer of a cache."""
    if not (layer.has_previous_state[0] and layer.is_conv_states_initialized[0]):
        return False
    if getattr(layer, "s0_open", False):  # started for a mixer that reads: fresh while its window is as we left it
        layer.s0_open = not bool(layer.conv_states[0].any())
        return not layer.s0_open
    return True


class Answers(dict[int, Any]):
    """A dictionary whose entry 0 is computed at each reading: what a mixer that reads finds in a cache that stores nothing."""

    def __init__(self, answer: Callable[[], Tensor]):
        super().__init__({0: None})
        self._answer = answer

    def __getitem__(self, key: int) -> Any:
        return self._answer() if key == 0 else super().__getitem__(key)


def answer_reads(layer: Any, mixer: Any, state: Callable[[], Tensor]) -> None:
    """Have every reading of a cache layer give an empty window and a new `state()` (for mixers that read)."""
    layer.recurrent_states = Answers(state)
    layer.conv_states = Answers(lambda: window(mixer, state().shape[0]))


class LayerView:
    """A cache layer whose state is another tensor; everything else is read from and written to the layer itself."""

    def __init__(self, layer: Any, state: Callable[[], Tensor]):
        object.__setattr__(self, "_layer", layer)
        object.__setattr__(self, "recurrent_states", Answers(state))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._layer, name, value)


class LayersView:
    """The layers of a cache with one of them replaced."""

    def __init__(self, layers: Any, index: int, layer: Any):
        self._layers, self._index, self._layer = layers, index, layer

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, index: int) -> Any:
        return self._layer if index == self._index else self._layers[index]


def gated_norm_fault(mixer: Any) -> str | None:
    """Reason why batches through this mixer's gated norm go wrong, or None.

    Falcon-H1's norm before transformers 5.23 drops the time axis of a one-token call but not that of its gate: [b, h] times
    [b, 1, h] is [b, b, h], without an error where nothing is padded. Looked at by shape, on the meta device.
    """
    norm = getattr(mixer, "norm", None)
    if not getattr(mixer, "mamba_rms_norm", False) or not isinstance(norm, nn.Module):
        return None
    weights = {name: torch.empty(t.shape, dtype=t.dtype, device="meta") for name, t in norm.named_parameters()}
    width = next(iter(weights.values())).shape[-1]
    one = torch.empty(2, 1, width, device="meta")
    out = torch.func.functional_call(norm, weights, (one, one))
    if out.shape == one.shape:
        return None
    return "the gated norm of this transformers version mixes the rows of a batch while decoding (mended in 5.23.0)"
