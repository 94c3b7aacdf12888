"""How a state enters a model: through the cache its recurrent layers read, without touching weights or kernels.

Gated-delta and Mamba-2 mixers ask the cache for their recurrent state and hand it to the scan as the initial state, even
in prefill; a cache that answers S0 before the first token is the whole injection. Three forms:

- `S0Cache(layout, rows)`          inference; every row of the batch may have its own state
- `TrainingCache(layout, rows)`    one forward pass with gradients reaching the states
- `Injection(model, layout)`       hooks that put S0 into every fresh cache, so that `model(...)`, `model.generate(...)`
                                   and continued caches work unchanged; also makes pads exact

Why pads need care: a pad's hidden state is zero but its decay gate is not one, so left padding fades S0. `exact_pads`
rewrites the gate pre-activations at pads so that a pad is an identity step (see `Family.pad_gates`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from s0.errors import ArchitectureError, S0Error
from s0.state.families import CLOSED, Layout, PadGate, device_of_layer
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
        self._s0_start = {i: t.detach() for i, t in rows.items()}
        self._seed()

    def _seed(self) -> None:
        for i, start in self._s0_start.items():
            layer: Any = self.layers[i]
            layer.recurrent_states[0] = start.clone()
            layer.is_recurrent_states_initialized[0] = True
            layer.s0_right_padded = False

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        if layer_idx in self._s0_start and state_idx == 0:
            layer: Any = self.layers[layer_idx]
            return layer.recurrent_states[0]
        return super().get_recurrent_state(layer_idx, state_idx)

    def reset(self) -> None:
        super().reset()
        self._seed()


class TrainingCache(DynamicCache):
    """One forward pass, nothing stored: gradients flow from the loss to `rows` (in-place cache updates would cut them).

    Always pass it in training, even for states of zero: some models take a fused path without initial state otherwise.
    """

    def __init__(self, layout: Layout, rows: Rows):
        super().__init__(config=layout.text_config)
        self._rows = rows
        self._factors: dict[int, Tensor] = {}

    def scale_start(self, layer_idx: int, factor: Tensor) -> None:
        """Multiply a layer's start by `factor`, broadcast to [batch, *shape] (see `exact_pads`)."""
        self._factors[layer_idx] = factor

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        start = self._rows.get(layer_idx) if state_idx == 0 else None
        if start is None:
            return None
        # a copy, because a one-token call updates what it is given in place
        return start * self._factors[layer_idx] if layer_idx in self._factors else start.clone()

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


# -- exact padding --------------------------------------------------------------------------------------------------


def _local_mask(mask: Any, length: int) -> Tensor | None:
    """[batch, length] mask of the tokens of this forward, or None where there is no 2D mask or no pad in it."""
    if isinstance(mask, dict):
        mask = mask.get("linear_attention", None)
    if not isinstance(mask, Tensor) or mask.ndim != 2 or length == 1:
        return None
    local = mask[:, -length:].bool()
    return None if bool(local.all()) else local


def _check_mask(mask: Tensor) -> None:
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
    if not (held.has_previous_state[0] and held.is_conv_states_initialized[0]):
        before = torch.zeros_like(mask[:, 0])
    elif before is None or before.shape[0] != mask.shape[0]:
        before = torch.ones_like(mask[:, 0])
    _check_mask(torch.cat([(before | mask[:, 0])[:, None], mask], 1))
    held.s0_started = before | mask.any(1)
    held.s0_right_padded = bool((held.s0_started & ~mask[:, -1]).any())


class _Pads:
    """Hooks that close the gates at pads for the duration of one mixer call."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.handles: list[Any] = []
        #: `mask` of the call under way; one per thread, because several may use the model at once
        self.call = threading.local()
        for i, mixer in layout.mixers.items():
            self.handles.append(mixer.register_forward_pre_hook(self._entry(i), with_kwargs=True))
            for gate in layout.family.pad_gates(mixer):
                self.handles.append(gate.module.register_forward_hook(self._closer(gate, i)))

    def _entry(self, layer: int) -> Callable[..., None]:
        def hook(mixer: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            cache = kwargs.get("cache_params", args[1] if len(args) > 1 else None)
            mask = kwargs.get("attention_mask", args[2] if len(args) > 2 else None)
            check_continuation(cache, layer)
            local = self.call.mask = _local_mask(mask, hidden.shape[1])
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
            mask = getattr(self.call, "mask", None)
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
        start = cache.layers[layer].recurrent_states[0]
        if start is not None:
            start.mul_(factor.to(start.device))


@contextlib.contextmanager
def exact_pads(layout: Layout) -> Iterator[None]:
    """Within the context, pads are identity steps of every recurrent layer (decay 1, write 0).

    Inside, a padded batch raises S0Error where a model cannot be exact (`Layout.padding_refused`).
    """
    pads = _Pads(layout)
    try:
        yield
    finally:
        pads.remove()


# -- injection into any call ---------------------------------------------------------------------------------------


class Injection:
    """Puts states into every fresh cache that reaches the model.

    `states` is one InitialState for all rows, or a list with one entry (or None) per row of the batch; with beams or
    `num_return_sequences` the batch is a multiple of the list and each entry serves consecutive rows.
    `padding="legacy"` leaves the decaying pads of the published batched runs in place.
    """

    def __init__(self, model: nn.Module, layout: Layout, states: Any, padding: str = "exact"):
        self.model, self.layout, self.padding = model, layout, padding
        self.states = states
        self._handles: list[Any] = []
        self._pads: _Pads | None = None
        self._cached: tuple[int, dict[int, Tensor]] | None = None
        for s in states if isinstance(states, list) else [states]:
            if s is not None:
                s.check(layout)

    def rows(self, batch: int) -> dict[int, Tensor]:
        if isinstance(self.states, list):
            if batch % len(self.states):
                raise S0Error(
                    f"states: {len(self.states)} states for a batch of {batch} rows; give one per row (or one for all)"
                )
            repeat = batch // len(self.states)
            return rows_of(self.layout, [s for s in self.states for _ in range(repeat)])
        if self._cached is None:
            self._cached = (1, rows_of(self.layout, [self.states]))
        return {i: t.expand(batch, *t.shape[1:]) for i, t in self._cached[1].items()}

    def _before(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        tokens = kwargs.get("input_ids")
        if tokens is None:
            tokens = kwargs.get("inputs_embeds")
        if tokens is None:
            tokens = args[0]
        name = self.layout.cache_argument
        cache = kwargs.get(name)
        if cache is None:
            cache = kwargs[name] = S0Cache(self.layout, self.rows(tokens.shape[0]))
        elif not isinstance(cache, (S0Cache, TrainingCache)) and is_fresh(cache, self.layout):
            seed_cache(cache, self.layout, self.rows(tokens.shape[0]))
        mask = kwargs.get("attention_mask")
        if self.padding == "exact" and isinstance(mask, Tensor) and mask.ndim == 2 and tokens.shape[1] > 1:
            _check_mask(mask)
        return args, kwargs

    def attach(self) -> None:
        if not self._handles:
            self._handles = [self.layout.text_model.register_forward_pre_hook(self._before, with_kwargs=True)]
            if self.padding == "exact":
                self._pads = _Pads(self.layout)

    def detach(self) -> None:
        for h in self._handles:
            h.remove()
        self._handles = []
        if self._pads:
            self._pads.remove()
            self._pads = None

    def __enter__(self) -> Injection:
        self.attach()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.detach()


def is_fresh(cache: Any, layout: Layout) -> bool:
    """True if no token has passed through the cache's recurrent layers yet."""
    layers = [cache.layers[i] for i in layout.layers if i < len(cache.layers)]
    return not any(getattr(layer, "has_previous_state", {0: False})[0] for layer in layers)


def seed_cache(cache: Any, layout: Layout, rows: Rows) -> None:
    """Write `rows` into a fresh cache made by somebody else (for example by `model.generate`).

    `has_previous_state` makes the layer answer with the seeded tensor; the convolution then reads a window of zeros,
    which equals the zero padding of a first call. Raises ArchitectureError where the cache has no recurrent layers.
    """
    for i, t in rows.items():
        layer = cache.layers[i] if i < len(cache.layers) else None
        if layer is None or not hasattr(layer, "recurrent_states"):
            raise ArchitectureError(
                f"past_key_values ({type(cache).__name__}): layer {i} holds no recurrent state; "
                "build it with DynamicCache(config=model.config) or pass none"
            )
        layer.recurrent_states[0] = t.detach().clone()
        # beam search reorders only states that are marked as initialised
        layer.is_recurrent_states_initialized[0] = True
        layer.has_previous_state[0] = True
        layer.s0_right_padded = False


@torch.no_grad()
def self_test(model: nn.Module, layout: Layout, state: InitialState, token_ids: list[int] | None = None) -> float:
    """Largest absolute logit change `state` causes on a short prompt (always measured with the real injection path).

    Raises S0Error when a non-zero state changes nothing: an injection that does not reach the model must never be
    mistaken for a method that does not help.
    """
    device = next(model.parameters()).device
    vocabulary = int(layout.text_config.vocab_size)
    ids = torch.tensor([token_ids or [j % vocabulary for j in (1, 2, 3, 5)]], device=device)
    training = model.training
    model.eval()
    try:
        base = model(input_ids=ids, use_cache=True, **{layout.cache_argument: S0Cache(layout, {})}).logits.float()
        with Injection(model, layout, state):
            tuned = model(input_ids=ids, use_cache=True).logits.float()
    finally:
        model.train(training)
    change = float((tuned - base).abs().max())
    if change == 0.0:
        size = max(float(t.norm()) for t in state.effective().values())
        raise S0Error(
            f"state (largest layer norm {size:.3g}, alpha {state.alpha}) changes no logit of "
            f"{type(model).__name__}: it is zero or does not reach the model; train it, or check alpha and layers"
        )
    return change
