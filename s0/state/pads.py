"""Exact padding: a pad is an identity step of every recurrent layer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from s0.errors import S0Error
from s0.state import compat
from s0.state.families import CLOSED, Layout, PadGate


def local_mask(mask: Any, length: int) -> Tensor | None:
    """[batch, length] mask of the tokens of this forward, or None where there is no 2D mask or no pad in it."""
    if isinstance(mask, dict):
        mask = mask.get("linear_attention", None)
    if not isinstance(mask, Tensor) or mask.ndim != 2 or length == 1:
        return None
    local = mask[:, -length:].bool()
    return None if bool(local.all()) else local


def check_mask(mask: Tensor) -> None:
    """Pads must be at one end of a row: a pad between tokens would sit inside the causal convolution's window."""
    m = mask.bool().int()
    switches = (m[:, 1:] != m[:, :-1]).sum(1)
    if bool((switches > 1).any()):
        row = int((switches > 1).nonzero()[0])
        raise S0Error(
            f"attention_mask row {row}: pads between tokens cannot be exact for a recurrent layer; "
            "pad on the left only and continue a cache without pads"
        )


def check_continuation(cache: Any, layer: int) -> None:
    """Raise S0Error if a layer's cache ends in right pads: they would sit in the convolution's window of this call."""
    if getattr(_cache_layer(cache, layer), "s0_right_padded", False):
        raise S0Error(
            "past_key_values: the cache ends in right pads, which a recurrent layer cannot skip when it continues; "
            'pad on the left (tokenizer.padding_side = "left")'
        )


def _cache_layer(cache: Any, layer: int) -> Any:
    return cache.layers[layer] if cache is not None and layer < len(cache.layers) else None


def _remember_pads(held: Any, mask: Tensor | None) -> None:
    """Note on a cache layer what this call's mask [batch, length] leaves behind, so that later calls (decoding steps above
    all) need no look at any mask. `s0_started`: rows that have had a token (None: all). Raises S0Error for left pads of a
    row that has."""
    if held is None:
        return
    if mask is None:
        held.s0_started = None
        return
    before = getattr(held, "s0_started", None)
    if not compat.has_seen_tokens(held):
        before = torch.zeros_like(mask[:, 0])
    elif before is None or before.shape[0] != mask.shape[0]:
        before = torch.ones_like(mask[:, 0])
    check_mask(torch.cat([(before | mask[:, 0])[:, None], mask], 1))
    held.s0_started = before | mask.any(1)
    held.s0_right_padded = bool((held.s0_started & ~mask[:, -1]).any())


class _Call(threading.local):
    """`mask` of the call under way in this thread; a copy of a model with hooks on it has calls of its own."""

    mask: Tensor | None = None

    def __deepcopy__(self, memo: Any) -> _Call:
        return _Call()


class PadHooks:
    """Hooks that close the gates at pads for the duration of one mixer call."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.handles: list[Any] = []
        self.call = _Call()
        for i, mixer in layout.mixers.items():
            self.handles.append(mixer.register_forward_pre_hook(self._entry(i), with_kwargs=True))
            for gate in layout.family.pad_gates(mixer):
                self.handles.append(gate.module.register_forward_hook(self._closer(gate, i)))

    def _entry(self, layer: int) -> Callable[..., None]:
        def hook(mixer: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            cache = compat.passed_cache(args, kwargs, position=1)
            mask = kwargs.get("attention_mask", args[2] if len(args) > 2 else None)
            check_continuation(cache, layer)
            local = self.call.mask = local_mask(mask, hidden.shape[1])
            _remember_pads(_cache_layer(cache, layer), local)
            if local is None:
                return
            if self.layout.padding_refused:
                raise S0Error(
                    f"attention_mask: {self.layout.family.name} cannot be exact with pads ({self.layout.padding_refused}); "
                    'run prompts of equal length together, or padding="legacy" to accept the error'
                )
            decay = self.layout.family.pad_decay(mixer)
            if decay is not None:
                _undo_decay(cache, layer, decay, local, len(self.layout.shapes[layer]))

        return hook

    def _closer(self, gate: PadGate, layer: int) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            mask = self.call.mask
            if mask is None:
                return None
            if output.shape[:2] != mask.shape:
                raise S0Error(
                    f"attention_mask {tuple(mask.shape)} does not match the gates {tuple(output.shape)} of layer "
                    f"{layer}: pads cannot be exact; pass one mask entry per token"
                )
            pad = ~mask.to(output.device)[..., None]
            out = output.masked_fill(pad, 0.0) if gate.zero_rest else output.clone()
            out[..., gate.columns] = out[..., gate.columns].masked_fill(pad, CLOSED / gate.scale)
            return out

        return hook

    def remove(self) -> None:
        for h in self.handles:
            h.remove()


#: exp of this still leaves room for the state itself in fp32
_LARGEST_LOG = 80.0


def _undo_decay(cache: Any, layer: int, decay: Tensor, mask: Tensor, dims: int) -> None:
    """Scale a layer's start up by what the left pads of each row will take away (`Family.pad_decay`, log per pad and head)."""
    pads = mask.cummax(1).values.logical_not().sum(1)
    lift = -decay[None, :] * pads.to(decay.device)[:, None]
    if float(lift.max()) > _LARGEST_LOG:
        raise S0Error(
            f"attention_mask: {int(pads.max())} left pads in one row decay layer {layer} beyond what fp32 can undo; "
            "batch prompts of similar length"
        )
    factor = lift.exp().view(*lift.shape, *[1] * (dims - 1))
    if hasattr(cache, "scale_start"):
        cache.scale_start(layer, factor)
    elif cache is not None:
        start = cache.layers[layer].recurrent_states[0] if layer < len(cache.layers) else None
        if start is not None:
            start.mul_(factor.to(start.device))


@contextlib.contextmanager
def exact_pads(layout: Layout) -> Iterator[None]:
    """Within the context, pads are identity steps of every recurrent layer (decay 1, write 0).

    Inside, a padded batch raises S0Error where a model cannot be exact (`Layout.padding_refused`).
    """
    pads = PadHooks(layout)
    try:
        yield
    finally:
        pads.remove()
