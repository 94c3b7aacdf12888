"""Substitution: a token's write is taken out of the state and an atom put in its place; what does the model say then?

No cache is touched: the change of the state is added to the outputs of the layer's kernel (s0.kernels.writes), so a condition
is one ordinary forward pass over all firings. Effects are KL divergences of next-token distributions, fp64 softmax of fp32
logits, at the firing's token t or summed over t..t+window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s0.kernels.writes import Factors, propagate, tap
from s0.state.families import Layout
from s0.writesae.capture import Site, Writes
from s0.writesae.dictionaries import WriteSAE
from s0.writesae.statistics import cliffs_delta, wilcoxon, wilson

#: condition -> what stands in the place of the write
CONDITIONS = {
    "null": "the write itself, taken out and put back",
    "delete": "nothing",
    "atom": "the strongest atom at its coefficient",
    "atom_norm": "the strongest atom at the write's norm",
    "atom_proj": "the projection of the write on the strongest atom",
    "sae": "all active atoms",
    "random_atom": "another atom at the strongest one's size",
    "random_direction": "a random rank-1 matrix at the strongest atom's size",
}
#: firings whose deletion changes less than this (nats) say nothing: rounding of fp32 logits
FLOOR = 1e-8


@dataclass(frozen=True)
class Firings:
    """Tokens whose writes are replaced, one per sequence: sequence numbers, positions, and the write k u' there."""

    sequence: list[int]
    position: Tensor
    k: Tensor
    u: Tensor


def choose_firings(writes: Writes, n: int, seed: int, first: int = 4, after: int = 2) -> Firings:
    """One token per sequence, drawn at random among those with `first` tokens before and `after` behind them."""
    g = torch.Generator().manual_seed(seed)
    chosen: list[int] = []
    numbers = writes.sequence.unique()
    for i in numbers[torch.randperm(len(numbers), generator=g)].tolist():
        length = len(writes.sequences[i])
        if length > first + after:
            t = int(torch.randint(first, length - after, (1,), generator=g))
            chosen.append(int(((writes.sequence == i) & (writes.position == t)).nonzero()[0]))
        if len(chosen) == n:
            break
    at = torch.tensor(chosen, dtype=torch.long)
    return Firings(writes.sequence[at].tolist(), writes.position[at], writes.k[at], writes.u[at])


Part = tuple[Tensor, Tensor]


def replacements(sae: WriteSAE, firings: Firings, seed: int) -> dict[str, list[Part]]:
    """condition -> rank-1 terms (p [N, dk], r [N, dv]) that stand in the place of each write. Atoms of dense decoders are
    represented by their top singular pair (flat + SVD)."""
    g = torch.Generator().manual_seed(seed)
    k, u, n = firings.k, firings.u, len(firings.k)
    with torch.no_grad():
        if sae.config.input == "state":
            code = sae.activate(sae.scores_of_matrices(torch.einsum("nk,nv->nkv", k, u) / sae.scale))
        else:
            code = sae.encode(k, u)
        order = code.value.argsort(dim=1, descending=True)[:, : sae.config.k]
        features, value = code.features.gather(1, order), code.value.gather(1, order) * sae.scale

        def parts(index: Tensor, size: Tensor) -> list[Part]:
            if sae.config.dense_decoder:
                left, s, right = torch.linalg.svd(sae.atoms(index), full_matrices=False)
                return [(left[:, :, 0] * (s[:, :1] * size[:, None]), right[:, 0])]
            return [(sae.P[index, r] * size[:, None], sae.R[index, r]) for r in range(sae.config.rank)]

        top, a = features[:, 0], value[:, 0]
        atom = parts(top, a)
        matrix = sum(torch.einsum("nk,nv->nkv", p, r) for p, r in parts(top, torch.ones(n)))
        assert isinstance(matrix, Tensor)
        norm = matrix.norm(dim=(1, 2)).clamp_min(1e-12)
        along = torch.einsum("nkv,nk,nv->n", matrix, k, u)
        other = (top + torch.randint(1, sae.config.n_features, (n,), generator=g)) % sae.config.n_features
        p = torch.nn.functional.normalize(torch.randn(n, k.shape[1], generator=g), dim=1)
        r = torch.nn.functional.normalize(torch.randn(n, u.shape[1], generator=g), dim=1)
        every = [x for j in range(features.shape[1]) for x in parts(features[:, j], value[:, j])]
        return {
            "null": [(k, u)],
            "delete": [],
            "atom": atom,
            "atom_norm": parts(top, along.sign() * k.norm(dim=1) * u.norm(dim=1) / norm),
            "atom_proj": parts(top, along / norm.square()),
            "sae": every,
            "random_atom": parts(other, a),
            "random_direction": [(p * (a * norm)[:, None], r)],
        }


@torch.no_grad()
def effects(
    model: Any,
    layout: Layout,
    site: Site,
    sequences: list[list[int]],
    firings: Firings,
    conditions: Mapping[str, list[Part]],
    window: int,
    rows: int = 64,
    direction: str = "forward",
) -> dict[str, np.ndarray]:
    """condition -> KL in nats per firing, summed over t..t+window (tokens of the sequence only).

    direction: "forward" KL(base || changed), "reverse" KL(changed || base).
    """
    found = {c: np.zeros(len(firings.k)) for c in conditions}
    order = sorted(range(len(firings.k)), key=lambda i: (len(sequences[firings.sequence[i]]), i))
    for at in range(0, len(order), rows):
        part = order[at : at + rows]
        texts = [sequences[firings.sequence[i]] for i in part]
        length = max(map(len, texts))
        ids = torch.zeros(len(part), length, dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
        t = firings.position[part]
        span = t[:, None] + torch.arange(window + 1)
        inside = span < torch.tensor([len(x) for x in texts])[:, None]
        span = span.clamp(max=length - 1)

        def logits(edit: Any, ids: Tensor = ids, span: Tensor = span) -> Tensor:
            with tap(layout, edit={site.layer: edit}):
                out = model(input_ids=ids, use_cache=False).logits
            return out.gather(1, span[..., None].expand(-1, -1, out.shape[-1])).double().log_softmax(-1)

        def nothing(f: Factors) -> Tensor:
            return torch.zeros_like(f.o)

        base = logits(nothing)
        taken = (firings.k[part], firings.u[part])
        for name, terms in conditions.items():

            def edit(
                f: Factors, terms: list[Part] = terms, part: list[int] = part, t: Tensor = t, taken: Part = taken
            ) -> Tensor:
                # put back minus taken out, each read by itself: the same matrix cancels to the last bit
                one, more = f.head(site.head), torch.zeros_like(f.o)
                for p, r in ((p[part], r[part]) for p, r in terms):
                    more[:, :, site.head] += propagate(one, t, p)[..., None] * r[:, None]
                more[:, :, site.head] -= propagate(one, t, taken[0])[..., None] * taken[1][:, None]
                return more

            changed = logits(edit)
            a, b = (base, changed) if direction == "forward" else (changed, base)
            kl = (a.exp() * (a - b)).sum(-1)
            found[name][part] = (kl * inside).sum(1).clamp_min(0).numpy()
    return found


def summary(kl: Mapping[str, np.ndarray], floor: float = FLOOR) -> dict[str, Any]:
    """Per condition: median KL, share of firings on which it beats deletion (win, with Wilson's interval), recovered share
    1 - sum KL / sum KL(delete); and the paired tests of the atom. Firings below the floor are left out."""
    keep = kl["delete"] > floor
    delete = kl["delete"][keep]
    table: dict[str, Any] = {}
    for name, all_of in kl.items():
        x = all_of[keep]
        wins = int((x < delete).sum())
        interval = wilson(wins, len(x))
        table[name] = {
            "median_kl": float(np.median(x)) if len(x) else None,
            "win": wins / len(x) if len(x) else None,
            "win_low": None if np.isnan(interval.low) else interval.low,
            "win_high": None if np.isnan(interval.high) else interval.high,
            "recovered": float(1 - x.sum() / delete.sum()) if len(x) else None,
            "max_kl": float(all_of.max()) if len(all_of) else None,
        }
    values: dict[str, Any] = {"n": int(keep.sum()), "n_all": len(keep), "conditions": table}
    if len(delete):
        atom, other = kl["atom"][keep], kl["random_atom"][keep]
        large = delete >= np.quantile(delete, 0.75)
        values |= {
            "win_top_quartile": float((atom < delete)[large].mean()),
            "chain": float(((atom < delete) & (delete < other)).mean()),
            "wilcoxon_p": wilcoxon(atom, delete).p_value,
            "cliffs_delta": cliffs_delta(delete, atom),
        }
    return values
