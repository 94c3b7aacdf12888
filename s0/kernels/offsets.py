"""A tensor added to the recurrent state at every step, exactly and without a loop over tokens.

With an offset O the recurrence is S_t = f_t(S_{t-1} + O). For the gated delta rule and for Mamba-2 the effect of all
additions up to t is a decayed count e_t = a_t (e_{t-1} + 1), e_0 = 0, times O, plus the ordinary recurrence T on changed
values (a_t is the decay; a scalar per head, or one number per key channel in Kimi's rule):

    S_t = T_t + e_t O
    delta rule   S_t = (I - b k k')(a S_{t-1} + a O) + b k v'   =>  T is the rule on values v_t - O'(e_t k_t)
    Mamba-2      S_t = a (S_{t-1} + O) + dt x B'                =>  T is the plain scan
    output       q'S_t = q'T_t + q'(e_t O)

so any chunked kernel computes it. Decoding one token adds O to the cached state before the ordinary step. At pads nothing
is added. Checked against token-by-token recurrences (outputs, final state, gradients) in tests/kernels.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s0.errors import ArchitectureError, S0Error
from s0.kernels.routing import fp32_kernel, patching, route
from s0.state.families import Layout
from s0.state.pads import local_mask

#: kind of recurrence -> names of (chunked, one-token, fused or None) kernels in transformers' modeling files
KERNELS: dict[str, tuple[str, str, str | None]] = {
    "gated_delta_net": ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule", None),
    "kimi_delta_attention": ("chunk_kimi_delta_attention", "recurrent_kimi_delta_attention", None),
    "mamba2": ("mamba2_chunk_scan", "mamba2_selective_state_update", "mamba2_split_conv1d_scan_combined"),
}


def decayed_counts(log_decay: Tensor, tokens: Tensor | None = None) -> Tensor:
    """e_t = exp(g_t) (e_{t-1} + m_t) with e_0 = 0, fp32 [batch, length, heads, channels] from g <= 0 of that shape.

    m = `tokens` [batch, length], 0 at pads. Chunks in log space: every exponent is <= 0, so nothing overflows.
    """
    b, length, heads, channels = log_decay.shape
    chunk = 64 if channels == 1 else 16  # the pairs of a chunk are the largest intermediate
    pad = -length % chunk
    g = F.pad(log_decay.float(), (0, 0, 0, 0, 0, pad)).view(b, -1, chunk, heads, channels)
    total = g.cumsum(2)
    pairs = (total[:, :, :, None] - total[:, :, None] + g[:, :, None]).movedim((2, 3), (-2, -1))
    later = torch.ones(chunk, chunk, dtype=torch.bool, device=g.device).triu(1)
    pairs = pairs.masked_fill(later, float("-inf")).exp()  # [b, chunks, heads, channels, t, s]
    if tokens is not None:
        pairs = pairs * F.pad(tokens.to(g), (0, pad)).view(b, -1, 1, 1, 1, chunk)
    within = pairs.sum(-1).movedim(-1, 2)
    carried = total.exp()
    e, out = g.new_zeros(b, heads, channels), []
    for n in range(g.shape[1]):
        out.append(within[:, n] + carried[:, n] * e[:, None])
        e = out[-1][:, -1]
    return torch.cat(out, 1)[:, :length]


def _times(x: Tensor, o: Tensor) -> Tensor:
    """x [batch, length, heads, n] times o [batch or 1, heads, n, m] -> [batch, length, heads, m]."""
    return (x.transpose(1, 2) @ o).transpose(1, 2)


def _refuse_packed(call: dict[str, Any]) -> None:
    extra = {**call, **call.get("kwargs", {})}
    if extra.get("cu_seqlens") is not None or extra.get("seq_idx") is not None:
        raise S0Error(
            "state_offset: packed sequences (cu_seqlens, seq_idx) are not supported; pass one sequence per row"
        )


def _bind(kernel: Callable[..., Any], args: Any, kwargs: Any) -> tuple[inspect.BoundArguments, dict[str, Any]]:
    bound = inspect.signature(inspect.unwrap(kernel)).bind(*args, **kwargs)
    bound.apply_defaults()
    _refuse_packed(bound.arguments)
    return bound, bound.arguments


def _queries_keys(module: ModuleType, a: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """fp32 queries (scaled) and keys as the kernel sees them, one per value head."""
    q, k, heads = a["query"].float(), a["key"].float(), a["value"].shape[2]
    if heads != k.shape[2]:
        q, k = (x.repeat_interleave(heads // x.shape[2], dim=2) for x in (q, k))
    if a["use_qk_l2norm_in_kernel"]:
        q, k = (module.l2norm(x, dim=-1, eps=1e-6) for x in (q, k))
    return q * q.shape[-1] ** -0.5, k


def delta_chunk(
    module: ModuleType, kernel: Any, o: Tensor, tokens: Tensor | None, mode: str, *args: Any, **kw: Any
) -> Any:
    bound, a = _bind(kernel, args, kw)
    q, k = _queries_keys(module, a)
    dtype = a["query"].dtype
    if mode == "readout":
        out, final = kernel(*args, **kw)
        return (out.float() + _times(q, o)).to(dtype), final
    g = a["g"] if a["g"].ndim == 4 else a["g"][..., None]
    e = decayed_counts(g, tokens)
    # T and e O nearly cancel along the keys, so the values must not be rounded to the model's dtype in between: the fp32
    # kernel is used here, whatever fused kernel is installed
    a["value"] = a["value"].float() - _times(k * e, o)
    a["query"], a["key"] = a["query"].float(), a["key"].float()
    out, final = fp32_kernel(kernel, a["query"])(*bound.args, **bound.kwargs)
    out = (out + _times(q * e, o)).to(dtype)
    return out, None if final is None else final + e[:, -1, :, :, None] * o


def delta_step(
    module: ModuleType, kernel: Any, o: Tensor, tokens: Tensor | None, mode: str, *args: Any, **kw: Any
) -> Any:
    bound, a = _bind(kernel, args, kw)
    if a["query"].shape[1] != 1:
        raise S0Error(f"state_offset: the one-token kernel was called with {a['query'].shape[1]} tokens")
    if mode == "readout":
        out, final = kernel(*args, **kw)
        return (out.float() + _times(_queries_keys(module, a)[0], o)).to(out.dtype), final
    state = a["initial_state"]
    a["initial_state"] = o.expand(a["query"].shape[0], -1, -1, -1).clone() if state is None else state + o
    return kernel(*bound.args, **bound.kwargs)


def mamba_chunk(
    module: ModuleType, kernel: Any, o: Tensor, tokens: Tensor | None, mode: str, *args: Any, **kw: Any
) -> Any:
    _, a = _bind(kernel, args, kw)
    result = kernel(*args, **kw)
    out, final = result if a["return_final_states"] else (result, None)
    heads = a["hidden_states"].shape[2]
    c = a["C"].float().repeat_interleave(heads // a["C"].shape[2], dim=2)
    if mode == "accumulate":
        dt = a["dt"] if a["dt_bias"] is None else a["dt"] + a["dt_bias"].to(a["dt"].dtype)
        dt = (F.softplus(dt) if a["dt_softplus"] else dt).clamp(*a["dt_limit"])
        e = decayed_counts((dt.float() * a["A"].float())[..., None], tokens)
        c = c * e
        final = None if final is None else final + e[:, -1, :, :, None] * o
    out = (out.float() + _times(c, o.transpose(-1, -2))).to(out.dtype)
    return (out, final) if a["return_final_states"] else out


def mamba_step(
    module: ModuleType, kernel: Any, o: Tensor, tokens: Tensor | None, mode: str, *args: Any, **kw: Any
) -> Any:
    bound, a = _bind(kernel, args, kw)
    if mode == "accumulate":
        state = a["state"]
        a["state"] = moved = (state + o).to(state.dtype)  # the kernel updates its state in place
        out = kernel(*bound.args, **bound.kwargs)
        state.copy_(moved)
        return out
    out = kernel(*args, **kw)
    heads = a["hidden_states"].shape[1]
    c = a["C"].float().repeat_interleave(heads // a["C"].shape[1], dim=1)
    more = (o @ c[..., None])[..., 0]
    if a["z"] is not None:
        more = more * F.silu(a["z"].float())
    return (out.float() + more).to(out.dtype)


_WRAPPERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "gated_delta_net": (delta_chunk, delta_step),
    "kimi_delta_attention": (delta_chunk, delta_step),
    "mamba2": (mamba_chunk, mamba_step),
}


@dataclass
class _Patched:
    """One modeling file whose kernels are wrapped, and the contexts that need them to be."""

    originals: dict[str, Callable[..., Any]]
    contexts: list[Offsets] = field(default_factory=list)


_PATCHED: dict[str, _Patched] = {}
#: `context`: whose layer is being called in this thread
_thread = threading.local()


def _running() -> Offsets | None:
    return getattr(_thread, "context", None)


def _wrap(module: ModuleType, kernel: Callable[..., Any], wrapper: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(kernel)
    def call(*args: Any, **kwargs: Any) -> Any:
        context = _running()
        if context is None:
            return kernel(*args, **kwargs)
        offset, tokens = _thread.current
        _thread.reached = True
        return wrapper(module, kernel, offset, tokens, context.mode, *args, **kwargs)

    return call


def _unfused(module: ModuleType, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The fused training path has no place for an offset; answering None makes the mixer take the ordinary one."""

    @functools.wraps(kernel)
    def call(*args: Any, **kwargs: Any) -> Any:
        return kernel(*args, **kwargs) if _running() is None else None

    return call


class Offsets:
    """Context in which the recurrent layers of one model add `offsets` to their state at every step.

    offsets   layer -> fp32 [batch or 1, *state shape] on the layer's device (alpha already applied); gradients flow
    mode      "accumulate": S_t = f(S_{t-1} + O); "readout": O is added only where queries read the state
    private   only for calls from the thread that entered the context: others train offsets of their own side by side

    Several threads may call the model within one context. Other models of the same family are not affected. Raises
    ArchitectureError where transformers has no kernel functions to wrap, S0Error where a layer ran without reaching them
    (replaced forward).
    """

    def __init__(self, layout: Layout, offsets: Mapping[int, Tensor], mode: str = "accumulate", private: bool = False):
        self.layout, self.offsets, self.mode, self.private = layout, offsets, mode, private
        self.owner: int | None = None
        self._handles: list[Any] = []
        self._module = sys.modules[type(layout.mixers[layout.layers[0]]).__module__]

    def _before(self, layer: int) -> Callable[..., None]:
        def hook(mixer: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            if self.owner not in (None, threading.get_ident()):
                return
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            mask = kwargs.get("attention_mask", args[2] if len(args) > 2 else None)
            _thread.context, _thread.reached = self, False
            _thread.current = self.offsets[layer], local_mask(mask, hidden.shape[1])

        return hook

    def _after(self, layer: int) -> Callable[..., None]:
        def hook(mixer: nn.Module, args: Any, output: Any) -> None:
            if _running() is not self:
                return
            _thread.context = None
            if not _thread.reached and output is not None:
                raise S0Error(
                    f"state_offset: layer {layer} ({type(mixer).__name__}) ran without its kernel functions, so the offset "
                    "was not added; load the model without replaced (hub) layers"
                )

        return hook

    def __enter__(self) -> Offsets:
        names, name = KERNELS.get(self.layout.architecture), self._module.__name__
        if names is None or any(not hasattr(self._module, n) for n in names[:2]):
            raise ArchitectureError(
                f"state_offset: {self.layout.family.name} ({name}) has no kernel functions to add an offset in; "
                f"use method=s0, or a family of {', '.join(KERNELS)}"
            )
        with patching:
            route(self._module)
            if name not in _PATCHED:
                originals = {n: getattr(self._module, n) for n in names if n and hasattr(self._module, n)}
                _PATCHED[name] = _Patched(originals)
                wrappers = _WRAPPERS[self.layout.architecture]
                for n, wrapper in zip(names[:2], wrappers, strict=True):
                    setattr(self._module, str(n), _wrap(self._module, originals[str(n)], wrapper))
                if names[2] in originals:
                    setattr(self._module, str(names[2]), _unfused(self._module, originals[str(names[2])]))
            _PATCHED[name].contexts.append(self)
        self.owner = threading.get_ident() if self.private else None
        for i in self.offsets:
            mixer = self.layout.mixers[i]
            self._handles.append(mixer.register_forward_pre_hook(self._before(i), with_kwargs=True))
            self._handles.append(mixer.register_forward_hook(self._after(i), always_call=True))
        return self

    def __exit__(self, *exc: Any) -> None:
        for h in self._handles:
            h.remove()
        self._handles = []
        if _running() is self:
            _thread.context = None
        name = self._module.__name__
        with patching:
            patched = _PATCHED[name]
            patched.contexts.remove(self)
            if not patched.contexts:
                for n, original in patched.originals.items():
                    setattr(self._module, n, original)
                del _PATCHED[name]
