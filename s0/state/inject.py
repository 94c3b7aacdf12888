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

import copy
from typing import Any

import torch
from torch import Tensor, nn

from s0.errors import S0Error
from s0.state import compat
from s0.state.cache import S0Cache, TrainingCache, is_fresh, rows_of, seed_cache
from s0.state.families import Layout
from s0.state.initial import InitialState
from s0.state.pads import PadHooks, check_mask

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
        self._pads: PadHooks | None = None
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
        cache = compat.passed_cache(args, kwargs)
        if cache is None:
            for name in compat.CACHE_NAMES:
                kwargs.pop(name, None)
            cache = kwargs[self.layout.cache_argument] = S0Cache(self.layout, self.rows(tokens.shape[0]))
            cache.unasked = not self._asked(kwargs)
        elif not isinstance(cache, (S0Cache, TrainingCache)) and is_fresh(cache, self.layout):
            seed_cache(cache, self.layout, self.rows(tokens.shape[0]))
        mask = kwargs.get("attention_mask")
        if self.padding == "exact" and isinstance(mask, Tensor) and mask.ndim == 2 and tokens.shape[1] > 1:
            check_mask(mask)
        return args, kwargs

    def _asked(self, kwargs: dict[str, Any]) -> bool:
        """Whether a call wants a cache back; `generate` would feed a cache it gets back, and the whole sequence with it."""
        asked = kwargs.get("use_cache")
        return bool(getattr(self.layout.text_config, "use_cache", True) if asked is None else asked)

    def _after(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        cache = compat.passed_cache(args, kwargs)
        return compat.without_cache(output, cache) if isinstance(cache, S0Cache) and cache.unasked else output

    def __getstate__(self) -> Any:
        raise S0Error(
            "pickle: a state is attached to the model; detach it, save the model, and keep the state by itself"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Injection:
        copied: Injection = object.__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__dict__.items()})
        return copied

    def attach(self) -> None:
        if not self._handles:
            backbone = self.layout.text_model
            self._handles = [
                backbone.register_forward_pre_hook(self._before, with_kwargs=True),
                backbone.register_forward_hook(self._after, with_kwargs=True),
            ]
            if self.padding == "exact":
                self._pads = PadHooks(self.layout)

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


@torch.no_grad()
def self_test(model: nn.Module, layout: Layout, state: InitialState, token_ids: list[int] | None = None) -> float:
    """Largest absolute logit change `state` causes on a short prompt (always measured with the real injection path).

    Raises S0Error when a non-zero state changes nothing: an injection that does not reach the model must never be
    mistaken for a method that does not help.
    """
    device = compat.device_of(model)
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
