"""What recurrent layers write: the factors of every token's write, of all families, and where a change of the state goes.

One convention for every recurrence (p: key side, r: value side), whatever the model's own layout:

    S_t = A_t S_{t-1} + k_t u_t'        o_t = S_t' q_t        S [key dim, value dim]
    A_t = (I - b_t k_t k_t') diag(exp g_t) for an additive write k (b v)', diag(exp g_t) for the corrected write k u'

Delta rules: u_t = b_t (v_t - (exp(g_t) S_{t-1})' k_t), q and k normalised, q scaled by 1/sqrt(key dim). Mamba-2: k = B,
u = v = dt x, q = C, no erasing. A change X of S_t reaches later tokens as X_s = A_s X_{s-1} (with the erasing A): adding
X_s' q_s to the kernel's outputs is the same as editing the cache between two calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from s0.kernels.delta_rule import CHUNK, chunk_writes
from s0.kernels.offsets import queries_keys, time_steps
from s0.kernels.taps import Handler, KernelCall, Taps
from s0.state.families import Layout

#: tokens per chunk where every key channel decays by itself (its pairs are a tensor of chunk x chunk x key dim)
CHANNEL_CHUNK = 16


@dataclass(frozen=True)
class Factors:
    """What a layer's kernel was given and what it wrote, fp32; B rows, T tokens, H heads (values' heads).

    q, k   [B, T, H, K], as the rule uses them    v, u  [B, T, H, V]    o  [B, T, H, V] kernel's output (the model's own)
    g      [B, T, H, 1] log decay, or [B, T, H, K] where every key channel has its own
    b      [B, T, H] write strength, 0 where nothing is erased (Mamba-2)
    start  [B, H, K, V] state before the first token
    """

    q: Tensor
    k: Tensor
    v: Tensor
    u: Tensor
    g: Tensor
    b: Tensor
    o: Tensor
    start: Tensor

    def head(self, h: int) -> Factors:
        """One head, kept as an axis of one."""
        part = {n: t[:, :, h : h + 1] for n, t in self.__dict__.items() if n != "start"}
        return Factors(**part, start=self.start[:, h : h + 1])

    def rows(self, index: Any) -> Factors:
        """Some rows of the batch."""
        return Factors(**{n: t[index] for n, t in self.__dict__.items()})

    def additive(self) -> Factors:
        """The factors with u = b v: the write without what it erases (Mamba-2: the same)."""
        return self if not bool(self.b.any()) else replace(self, u=self.b[..., None] * self.v)


def _flat(x: Tensor) -> Tensor:
    """[B, T, H, n] -> [B * H, T, n]"""
    return x.transpose(1, 2).flatten(0, 1)


def updates(k: Tensor, v: Tensor, g: Tensor, b: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """u [B, T, H, V] of a delta rule and the final state [B, H, K, V], in chunks; arguments as in `Factors`."""
    batch, length, heads, width = k.shape
    kf, vf, gf, bf = _flat(k), _flat(v), _flat(g), _flat(b[..., None])[..., 0]
    state, parts = start.flatten(0, 1).float(), []
    channels = gf.shape[-1] > 1
    size = CHANNEL_CHUNK if channels else CHUNK
    for at in range(0, length, size):
        s = slice(at, at + size)
        if channels:
            u, state = _channel_writes(kf[:, s], vf[:, s], gf[:, s], bf[:, s], state)
        else:
            u, state = chunk_writes(kf[:, s], vf[:, s], gf[:, s, 0], bf[:, s], state)
        parts.append(u)
    u = torch.cat(parts, 1).view(batch, heads, length, -1).transpose(1, 2)
    return u, state.view(batch, heads, width, -1)


def _channel_writes(k: Tensor, v: Tensor, g: Tensor, b: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """`chunk_writes` with a decay per key channel, g [N, T, K] (Kimi delta attention)."""
    c = g.cumsum(1)
    pairs = (c[:, :, None] - c[:, None]).clamp(max=0).exp()  # [N, t, s, K]; only s < t is read
    system = torch.einsum("ntk,nsk,ntsk->nts", k, k, pairs) * b[..., None]
    held = torch.bmm(k * c.exp(), start)
    u = torch.linalg.solve_triangular(system, (v - held) * b[..., None], upper=False, unitriangular=True)
    kept = k * (c[:, -1:] - c).exp()
    return u, start * c[:, -1, :, None].exp() + torch.bmm(kept.transpose(1, 2), u)


def read(q: Tensor, k: Tensor, u: Tensor, g: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """o_t = S_t' q_t [B, T, H, V] and the final state from the factors of all writes (any recurrence), in chunks."""
    batch, length, heads, width = k.shape
    qf, kf, uf, gf = map(_flat, (q, k, u, g))
    state, parts = start.flatten(0, 1).float(), []
    size = CHANNEL_CHUNK if gf.shape[-1] > 1 else CHUNK
    for at in range(0, length, size):
        qc, kc, uc, gc = (x[:, at : at + size] for x in (qf, kf, uf, gf))
        c = gc.cumsum(1)
        # decays are taken from the token that reads, so that no exponent is positive
        pairs = (c[:, :, None] - c[:, None]).clamp(max=0).exp()
        scores = (
            torch.einsum("ntk,nsk,ntsk->nts", qc, kc, pairs.expand(-1, -1, -1, width))
            if gc.shape[-1] > 1
            else (torch.bmm(qc, kc.transpose(1, 2)) * pairs[..., 0])
        )
        parts.append(torch.bmm(scores.tril(), uc) + torch.bmm(qc * c.exp(), state))
        kept = kc * (c[:, -1:] - c).exp()
        state = state * c[:, -1, :, None].exp() + torch.bmm(kept.transpose(1, 2), uc)
    o = torch.cat(parts, 1).view(batch, heads, length, -1).transpose(1, 2)
    return o, state.view(batch, heads, width, -1)


def propagate(f: Factors, t: Tensor, p: Tensor) -> Tensor:
    """How strongly the read of every token sees a change p r' of S_t: q_s . x_s, x_t = p, x_s = A_s x_{s-1}.

    f of one head ([B, T, 1, ...]), t [B] token of the change, p [B, K] -> [B, T], 0 before t. The change of the kernel's
    output at s is that number times r.
    """
    length = f.k.shape[1]
    after = torch.arange(length, device=p.device)[None, :] > t[:, None]
    g = f.g * after[:, :, None, None]
    b = f.b * after[:, :, None]
    nothing = f.v.new_zeros(*f.v.shape[:3], 1)
    start = p[:, None, :, None].float()
    u = updates(f.k, nothing, g, b, start)[0] if bool(b.any()) else nothing
    seen, _ = read(f.q, f.k, u, g, start)
    at = torch.arange(length, device=p.device)[None, :] >= t[:, None]
    return seen[:, :, 0, 0] * at


# -- from a kernel's call ------------------------------------------------------------------------------------------------


def factors_of(call: KernelCall, output: Any) -> Factors:
    """Factors of one kernel call, from its arguments (before it ran: the one-token Mamba-2 kernel updates its state) and its
    output."""
    return _mamba_factors(call, output) if not call.recurrence.erases else _delta_factors(call, output)


def _delta_factors(call: KernelCall, output: Any) -> Factors:
    a = call.bound().arguments
    q, k = queries_keys(call.module, a)
    v, b = a["value"].float(), a["beta"].float()
    g = a["g"].float()
    g = g if g.ndim == 4 else g[..., None]
    start = a["initial_state"]
    start = k.new_zeros(k.shape[0], k.shape[2], k.shape[3], v.shape[3]) if start is None else start.float().clone()
    u, _ = updates(k, v, g, b, start)
    return Factors(q, k, v, u, g, b, output[0].float(), start)


def _mamba_factors(call: KernelCall, output: Any) -> Factors:
    a = call.bound().arguments
    if call.step:
        x, dt, rate = a["hidden_states"][:, None].float(), a["dt"], a["A"][:, 0, 0].float()
        dt = dt if a["dt_bias"] is None else dt + a["dt_bias"].to(dt.dtype)
        dt = (F.softplus(dt) if a["dt_softplus"] else dt)[:, None, :, 0].float()  # this kernel knows no limits
        key, query, start, o = a["B"][:, None], a["C"][:, None], a["state"], output[:, None]
    else:
        x, dt, rate = a["hidden_states"].float(), time_steps(a).float(), a["A"].float()
        key, query, start = a["B"], a["C"], a["initial_states"]
        o = output[0] if a["return_final_states"] else output
    heads = x.shape[2]
    k, q = (z.float().repeat_interleave(heads // z.shape[2], dim=2) for z in (key, query))
    u = dt[..., None] * x
    if start is None:
        start = k.new_zeros(k.shape[0], heads, k.shape[3], u.shape[3])
    else:
        start = call.recurrence.matrix(start.float().clone())  # the cache writes its new state over it
    return Factors(q, k, u, u, (dt * rate)[..., None], torch.zeros_like(dt), o.float(), start)


def add_to_output(call: KernelCall, output: Any, more: Tensor) -> Any:
    """The kernel's answer with `more` [B, T, H, V] added to its outputs (before a gate the kernel itself applies)."""
    whole = isinstance(output, tuple)
    o = output[0] if whole else output
    if call.step and not call.recurrence.erases:
        z = call.bound().arguments["z"]
        more = more[:, 0] if z is None else more[:, 0] * F.silu(z.float())
    changed = (o.float() + more).to(o.dtype)
    return (changed, *output[1:]) if whole else changed


def tap(
    layout: Layout,
    see: Callable[[int, Factors], None] | None = None,
    edit: Mapping[int, Callable[[Factors], Tensor]] | None = None,
    layers: tuple[int, ...] | None = None,
) -> Taps:
    """A context that shows the factors of `layers` (default: all) to `see` and adds `edit[layer](factors)` to outputs."""
    edits = edit or {}

    def answer(call: KernelCall) -> Any:
        # the one-token Mamba-2 kernel overwrites the state it is given
        before = call.bound().arguments.get("state")
        kept = None if before is None else before.clone()
        output = call.run()
        if kept is not None:
            call = _with_state(call, kept)
        f = factors_of(call, output)
        if see is not None:
            see(call.layer, f)
        return add_to_output(call, output, edits[call.layer](f)) if call.layer in edits else output

    wanted = tuple(edits) if see is None else (layout.layers if layers is None else layers)
    handler: Handler = answer
    return Taps(layout, dict.fromkeys({*wanted, *edits}, handler), private=True)


def _with_state(call: KernelCall, state: Tensor) -> KernelCall:
    bound = call.bound()
    bound.arguments["state"] = state
    return replace(call, args=bound.args, kwargs=bound.kwargs)
