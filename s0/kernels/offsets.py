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

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from s0.errors import S0Error
from s0.kernels.routing import fp32_kernel
from s0.kernels.taps import Handler, KernelCall, Taps
from s0.state.families import Layout


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


def queries_keys(module: ModuleType, a: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """fp32 queries (scaled) and keys as the kernel sees them, one per value head."""
    q, k, heads = a["query"].float(), a["key"].float(), a["value"].shape[2]
    if heads != k.shape[2]:
        q, k = (x.repeat_interleave(heads // x.shape[2], dim=2) for x in (q, k))
    if a["use_qk_l2norm_in_kernel"]:
        q, k = (module.l2norm(x, dim=-1, eps=1e-6) for x in (q, k))
    return q * q.shape[-1] ** -0.5, k


def delta_chunk(call: KernelCall, o: Tensor, mode: str) -> Any:
    bound = call.bound("state_offset")
    a = bound.arguments
    q, k = queries_keys(call.module, a)
    dtype = a["query"].dtype
    if mode == "readout":
        out, final = call.run()
        return (out.float() + _times(q, o)).to(dtype), final
    g = a["g"] if a["g"].ndim == 4 else a["g"][..., None]
    e = decayed_counts(g, call.tokens)
    # T and e O nearly cancel along the keys, so the values must not be rounded to the model's dtype in between: the fp32
    # kernel is used here, whatever fused kernel is installed
    a["value"] = a["value"].float() - _times(k * e, o)
    a["query"], a["key"] = a["query"].float(), a["key"].float()
    out, final = fp32_kernel(call.kernel, a["query"])(*bound.args, **bound.kwargs)
    out = (out + _times(q * e, o)).to(dtype)
    return out, None if final is None else final + e[:, -1, :, :, None] * o


def delta_step(call: KernelCall, o: Tensor, mode: str) -> Any:
    bound = call.bound("state_offset")
    a = bound.arguments
    if a["query"].shape[1] != 1:
        raise S0Error(f"state_offset: the one-token kernel was called with {a['query'].shape[1]} tokens")
    if mode == "readout":
        out, final = call.run()
        return (out.float() + _times(queries_keys(call.module, a)[0], o)).to(out.dtype), final
    state = a["initial_state"]
    a["initial_state"] = o.expand(a["query"].shape[0], -1, -1, -1).clone() if state is None else state + o
    return call.kernel(*bound.args, **bound.kwargs)


def time_steps(a: dict[str, Any]) -> Tensor:
    """dt as the chunked Mamba-2 kernel uses it: [batch, length, heads]."""
    dt = a["dt"] if a["dt_bias"] is None else a["dt"] + a["dt_bias"].to(a["dt"].dtype)
    return (F.softplus(dt) if a["dt_softplus"] else dt).clamp(*a["dt_limit"])


def mamba_chunk(call: KernelCall, o: Tensor, mode: str) -> Any:
    a = call.bound("state_offset").arguments
    result = call.run()
    out, final = result if a["return_final_states"] else (result, None)
    heads = a["hidden_states"].shape[2]
    c = a["C"].float().repeat_interleave(heads // a["C"].shape[2], dim=2)
    if mode == "accumulate":
        e = decayed_counts((time_steps(a).float() * a["A"].float())[..., None], call.tokens)
        c = c * e
        final = None if final is None else final + e[:, -1, :, :, None] * o
    out = (out.float() + _times(c, o.transpose(-1, -2))).to(out.dtype)
    return (out, final) if a["return_final_states"] else out


def mamba_step(call: KernelCall, o: Tensor, mode: str) -> Any:
    bound = call.bound("state_offset")
    a = bound.arguments
    if mode == "accumulate":
        state = a["state"]
        a["state"] = moved = (state + o).to(state.dtype)  # the kernel updates its state in place
        out = call.kernel(*bound.args, **bound.kwargs)
        state.copy_(moved)
        return out
    out = call.run()
    heads = a["hidden_states"].shape[1]
    c = a["C"].float().repeat_interleave(heads // a["C"].shape[1], dim=1)
    more = (o @ c[..., None])[..., 0]
    if a["z"] is not None:
        more = more * F.silu(a["z"].float())
    return (out.float() + more).to(out.dtype)


class Offsets(Taps):
    """Context in which the recurrent layers of one model add `offsets` to their state at every step.

    offsets   layer -> fp32 [batch or 1, *state shape] on the layer's device (alpha already applied); gradients flow
    mode      "accumulate": S_t = f(S_{t-1} + O); "readout": O is added only where queries read the state
    private   only for calls from the thread that entered the context: others train offsets of their own side by side

    What it raises: see `Taps`.
    """

    what = "state_offset"

    def __init__(self, layout: Layout, offsets: Mapping[int, Tensor], mode: str = "accumulate", private: bool = False):
        chunk, step = (delta_chunk, delta_step) if layout.family.recurrence.erases else (mamba_chunk, mamba_step)

        def handler(o: Tensor) -> Handler:
            return lambda call: (step if call.step else chunk)(call, o, mode)

        super().__init__(layout, {i: handler(o) for i, o in offsets.items()}, private)
