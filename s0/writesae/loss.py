"""Squared error of a dictionary on writes from their factors alone: nothing of size key dim x value dim per write is built.

    |k u' - B - sum_a c_a A_a|^2 = |k|^2 |u|^2 - 2 k'Bu + |B|^2
                                   - 2 sum_a c_a (k'A_a u - <A_a, B>) + sum_ab c_a c_b <A_a, A_b>

with <p r', p~ r~'> = (p . p~)(r . r~): O(m (dk + dv)) per write and O(m^2 (dk + dv)) for m active atoms. Dense decoders
have no factors; theirs is the plain loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s0.writesae.dictionaries import Code, WriteSAE


def dense_error(sae: WriteSAE, x: Tensor, code: Code) -> Tensor:
    """|x - decoded|^2 per input [N], in scaled units; x [N, dk, dv] scaled."""
    return (x - sae.decode(code) / sae.scale).square().sum((1, 2))


def write_error(sae: WriteSAE, k: Tensor, u: Tensor, code: Code) -> Tensor:
    """|k u' - decoded|^2 per write [N], in scaled units; u scaled."""
    if sae.config.dense_decoder:
        return dense_error(sae, torch.einsum("nk,nv->nkv", k, u), code)
    own = k.square().sum(1) * u.square().sum(1)
    against_bias = ((k @ sae.bias) * u).sum(1)
    base = own - 2 * against_bias + sae.bias.square().sum()
    if code.features.shape[1] == sae.config.n_features:  # every feature may be active: the atoms' Gram matrix once
        n = sae.config.n_features
        p, r = sae.P.flatten(0, 1), sae.R.flatten(0, 1)
        inner = ((k @ p.T) * (u @ r.T) - ((p @ sae.bias) * r).sum(1)).view(len(k), n, -1).sum(2)
        gram = ((p @ p.T) * (r @ r.T)).view(n, sae.config.rank, n, sae.config.rank).sum((1, 3))
        a = code.value
        return base - 2 * (a * inner).sum(1) + ((a @ gram) * a).sum(1)
    p, r = sae.P[code.features].flatten(1, 2), sae.R[code.features].flatten(1, 2)  # [N, m R, dk], [N, m R, dv]
    a = code.value.repeat_interleave(sae.config.rank, dim=1)
    inner = torch.einsum("nmk,nk->nm", p, k) * torch.einsum("nmv,nv->nm", r, u) - ((p @ sae.bias) * r).sum(2)
    gram = torch.bmm(p, p.transpose(1, 2)) * torch.bmm(r, r.transpose(1, 2))
    return base - 2 * (a * inner).sum(1) + torch.einsum("nm,nml,nl->n", a, gram, a)


def revival_error(sae: WriteSAE, k: Tensor, u: Tensor, code: Code, silent: Tensor, m: int) -> Tensor:
    """Mean squared error of the silent features (indices) reconstructing the detached residual, at most m per write.

    Only the part that depends on the silent features is computed (the rest is constant); dense decoders are not served.
    """
    z = sae.scores(k, u)[:, silent]
    top, at = z.topk(min(m, len(silent)), dim=1)
    index, a = silent[at], top.relu()
    rank = sae.config.rank
    p, r = sae.P[index].flatten(1, 2), sae.R[index].flatten(1, 2)
    a = a.repeat_interleave(rank, dim=1)
    with torch.no_grad():
        pl, rl = sae.P[code.features].flatten(1, 2), sae.R[code.features].flatten(1, 2)
        al = code.value.repeat_interleave(rank, dim=1)
        bias = sae.bias.clone()
    cross = torch.bmm(p, pl.transpose(1, 2)) * torch.bmm(r, rl.transpose(1, 2))
    inner = torch.einsum("nmk,nk->nm", p, k) * torch.einsum("nmv,nv->nm", r, u) - ((p @ bias) * r).sum(2)
    inner = inner - torch.einsum("nml,nl->nm", cross, al)
    gram = torch.bmm(p, p.transpose(1, 2)) * torch.bmm(r, r.transpose(1, 2))
    return (-2 * (a * inner).sum(1) + torch.einsum("nm,nml,nl->n", a, gram, a)).mean()
