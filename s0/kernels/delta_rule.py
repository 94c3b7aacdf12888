"""The gated delta rule on CPU, for training: an exact chunked scan whose backward pass is written by hand.

Per value head (Gated DeltaNet; the reference it is compared with, outputs and gradients, is `torch_chunk_gated_delta_rule`
in transformers' modeling files, see tests/kernels):

    S_t = exp(g_t) S_{t-1} + b_t k_t (v_t - exp(g_t) S_{t-1}' k_t)'        o_t = S_t' q_t

Within a chunk of T tokens, with c the running sum of g, e = exp(c) and D_ij = exp(c_i - c_j) for j <= i:

    (I + A) U = b (V - e K S)         A = b_i (K K' * D) below the diagonal
    O = e Q S + (Q K' * D) U          S_next = e_T S + (exp(c_T - c) K)' U

It is faster than the reference under autograd because a chunk ends where the sequence ends (the reference pads to multiples
of 64), because there is one triangular solve forward and one backward, and because where only the start state needs a
gradient (the lowest learned layer) nothing else is computed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: a sequence of up to this many tokens is one chunk; a longer one is cut into chunks of CHUNK tokens
LONGEST, CHUNK = 96, 64

Grads = tuple[Tensor | None, ...]


class _Normalise(torch.autograd.Function):
    """x * scale / sqrt(sum over the last dimension of x^2 + 1e-6)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        inverse = (x * x).sum(-1, keepdim=True).add_(1e-6).rsqrt_()
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        ctx.scale = scale
        return y if scale == 1.0 else y * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        y, inverse = ctx.saved_tensors
        (dy,) = grads
        along = (dy * y).sum(-1, keepdim=True)
        return (dy - y * along).mul_(inverse * ctx.scale), None


def _updates(k: Tensor, v: Tensor, c: Tensor, b: Tensor, start: Tensor) -> tuple[Tensor, ...]:
    """The system of one chunk and its solution U (last): what every token adds to the state along its key, [N, T, V]."""
    e, bt, kt = c.exp().unsqueeze(-1), b.unsqueeze(-1), k.transpose(-1, -2)
    # above the diagonal the exponent is positive and may overflow: cut there, and dropped below
    decay = (c.unsqueeze(-1) - c.unsqueeze(-2)).clamp_(max=0).exp_()
    kk = torch.bmm(k, kt).mul_(decay)
    system = kk * bt  # only what is below the diagonal is read
    held = torch.bmm(k, start).mul_(e)
    error = v - held
    u = torch.linalg.solve_triangular(system, error * bt, upper=False, unitriangular=True)
    return decay, kk, system, held, error, u


def chunk_writes(k: Tensor, v: Tensor, g: Tensor, b: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """What every token of one chunk adds to the state, S_t = exp(g_t) S_{t-1} + k_t u_t', and the state after it.

    fp32, no gradients: k [N, T, K] as the rule uses it (normalised), v [N, T, V], g and b [N, T], start [N, K, V]
    -> u [N, T, V], state [N, K, V]."""
    with torch.no_grad():
        c = g.cumsum(1)
        u = _updates(k, v, c, b, start)[-1]
        kept = k * (c[:, -1:] - c).exp().unsqueeze(-1)
        return u, torch.baddbmm(start * c[:, -1:].exp().unsqueeze(-1), kept.transpose(-1, -2), u)


class _Chunk(torch.autograd.Function):
    """One chunk, fp32: q, k [N, T, K] (normalised and scaled), v [N, T, V], c and b [N, T], start [N, K, V]
    -> outputs [N, T, V] and, unless `last`, the next state [N, K, V]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, c: Tensor, b: Tensor, start: Tensor, last: bool
    ) -> tuple[Tensor, Tensor | None]:
        e, (decay, kk, system, held, error, u) = c.exp().unsqueeze(-1), _updates(k, v, c, b, start)
        qk = torch.bmm(q, k.transpose(-1, -2)).mul_(decay).tril_()
        read = torch.bmm(q, start).mul_(e)
        out = torch.baddbmm(read, qk, u)
        after = None
        if not last:
            kept = k * (c[:, -1:] - c).exp().unsqueeze(-1)
            after = torch.baddbmm(start * e[:, -1:], kept.transpose(-1, -2), u)
        ctx.save_for_backward(q, k, c, b, start, decay, kk, qk, system, held, error, u, read)
        ctx.set_materialize_grads(False)
        return out, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Grads:
        do, dafter = grads
        q, k, c, b, start, decay, kk, qk, system, held, error, u, read = ctx.saved_tensors
        e, bt = c.exp().unsqueeze(-1), b.unsqueeze(-1)
        du = torch.zeros_like(u) if do is None else torch.bmm(qk.transpose(-1, -2), do)
        if dafter is not None:
            rest = (c[:, -1:] - c).exp().unsqueeze(-1)
            du.baddbmm_(k * rest, dafter)
        w = torch.linalg.solve_triangular(system.transpose(-1, -2), du, upper=True, unitriangular=True)
        dv = w * bt
        dheld = dv * e
        dstart = torch.bmm(k.transpose(-1, -2), dheld).neg_()
        if do is not None:
            dread = do * e
            dstart.baddbmm_(q.transpose(-1, -2), dread)
        if dafter is not None:
            dstart.addcmul_(dafter, e[:, -1:])
        if not any(ctx.needs_input_grad[:5]):
            return None, None, None, None, None, dstart, None
        dsystem = torch.bmm(w, u.transpose(-1, -2)).tril_(-1).neg_()
        db = (w * error).sum(-1).add_((dsystem * kk).sum(-1))
        dkk = dsystem.mul_(bt)
        moved = dkk * kk
        dkk.mul_(decay)
        dc = (dv * held).sum(-1).neg_()
        st = start.transpose(-1, -2)
        dk = torch.bmm(dheld, st).neg_().baddbmm_(dkk, k).baddbmm_(dkk.transpose(-1, -2), k)
        dq = None
        if do is not None:
            dqk = torch.bmm(do, u.transpose(-1, -2)).tril_()
            moved.addcmul_(dqk, qk)
            dqk.mul_(decay)
            dc.add_((do * read).sum(-1))
            dq = torch.bmm(dread, st).baddbmm_(dqk, k)
            dk.baddbmm_(dqk.transpose(-1, -2), q)
        dc.add_(moved.sum(-1)).sub_(moved.sum(-2))
        if dafter is not None:
            dkept = torch.bmm(u, dafter.transpose(-1, -2)).mul_(rest)
            dk.add_(dkept)
            faded = dkept.mul_(k).sum(-1)
            dc.sub_(faded)
            dc[:, -1].add_(faded.sum(-1)).add_((start * dafter).sum((-1, -2)) * e[:, -1, 0])
        return dq, dk, dv, dc, db, dstart, None


def gated_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    chunk_size: int = CHUNK,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """In place of transformers' `torch_chunk_gated_delta_rule`, for at least one token and first derivatives: query, key
    [B, T, Hk, K], value [B, T, Hv, V], g and beta [B, T, Hv], initial_state
    [B, Hv, K, V] -> outputs [B, T, Hv, V] in query's dtype and the final state (fp32) or None.

    A sequence of up to LONGEST tokens is one chunk whatever `chunk_size` is."""
    dtype, (batch, length, groups, width) = query.dtype, key.shape
    heads = value.shape[2]
    q, k, v = (x.transpose(1, 2).float() for x in (query, key, value))
    scale = width**-0.5
    if use_qk_l2norm_in_kernel:
        q, k = _Normalise.apply(q, scale), _Normalise.apply(k, 1.0)
    else:
        q = q * scale
    if groups != heads:
        q, k = (x.repeat_interleave(heads // groups, dim=1) for x in (q, k))
    n = batch * heads
    q, k, v = (x.reshape(n, length, x.shape[-1]) for x in (q, k, v))
    g, b = (x.transpose(1, 2).float().reshape(n, length) for x in (g, beta))
    state = q.new_zeros(n, width, v.shape[-1]) if initial_state is None else initial_state.float().flatten(0, 1)
    size = length if length <= LONGEST else chunk_size
    outs = []
    for at in range(0, length, size):
        part = slice(at, min(at + size, length))
        last = at + size >= length and not output_final_state
        out, state = _Chunk.apply(q[:, part], k[:, part], v[:, part], g[:, part].cumsum(1), b[:, part], state, last)
        outs.append(out)
    o = outs[0] if len(outs) == 1 else torch.cat(outs, 1)
    o = o.view(batch, heads, length, -1).transpose(1, 2).to(dtype, memory_format=torch.contiguous_format)
    return o, state.view(batch, heads, width, -1) if output_final_state else None
