"""A state as a sum of atoms: how much of what S0 tuning learned do 1, 2, 4, ... atoms of a dictionary hold?

Orthogonal matching pursuit over the atoms, against the best rank-n approximation (SVD: what no n rank-1 matrices beat) and a
random dictionary of the same size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from s0.errors import S0Error
from s0.state.families import Layout
from s0.state.initial import InitialState
from s0.writesae.capture import Site
from s0.writesae.dictionaries import DictionaryConfig, WriteSAE

COUNTS = (1, 2, 4, 8, 16, 32, 64)


def site_matrix(state: InitialState, layout: Layout, site: Site) -> Tensor:
    """The state of one head, [key dim, value dim], before alpha. Raises S0Error where the state has no such layer."""
    if site.layer not in state.tensors:
        raise S0Error(f"site={site}: the state has layers {list(state.tensors)}; choose one of them")
    return layout.family.recurrence.matrix(state.tensors[site.layer])[site.head]


def pursue(atoms: Tensor, target: Tensor, n: int) -> list[tuple[list[int], Tensor]]:
    """For 1..n atoms: (their numbers, their best approximation of target); atoms [nf, dk, dv], target [dk, dv]."""
    flat = torch.nn.functional.normalize(atoms.flatten(1).double(), dim=1)
    goal = target.flatten().double()
    chosen: list[int] = []
    steps, left = [], goal
    for _ in range(min(n, len(flat))):
        scores = (flat @ left).abs()
        scores[chosen] = -1
        chosen.append(int(scores.argmax()))
        basis = flat[chosen].T
        weights = torch.linalg.lstsq(basis, goal[:, None], driver="gelsd").solution
        found = (basis @ weights)[:, 0]
        left = goal - found
        steps.append((list(chosen), found.view_as(target).float()))
    return steps


@torch.no_grad()
def decompose(
    sae: WriteSAE, target: Tensor, counts: Sequence[int] = COUNTS, seed: int = 0
) -> dict[str, dict[int, float]]:
    """Share of the target's squared norm captured by n atoms: of the dictionary ("atoms"), of a random one of the same size
    ("random"), and by the best rank-n matrix ("svd")."""
    c = sae.config
    if tuple(target.shape) != (c.key_dim, c.value_dim):
        raise S0Error(f"state {tuple(target.shape)}: the dictionary is of {c.key_dim} x {c.value_dim}; use its model's")
    other = WriteSAE(
        DictionaryConfig(c.key_dim, c.value_dim, c.n_features, 1), torch.Generator().manual_seed(1_000_003 + seed)
    )
    index = torch.arange(c.n_features)
    energy = float(target.double().square().sum())
    table: dict[str, dict[int, float]] = {}
    for name, dictionary in (("atoms", sae), ("random", other)):
        steps = pursue(dictionary.atoms(index), target, max(counts))
        errors = [float((target - found).double().square().sum()) for _, found in steps]
        table[name] = {n: 1 - errors[min(n, len(errors)) - 1] / energy for n in counts}
    squares = torch.linalg.svdvals(target.double()).square()
    table["svd"] = {n: float(squares[:n].sum() / squares.sum()) for n in counts}
    return table


@torch.no_grad()
def sparse_state(state: InitialState, layout: Layout, dictionaries: dict[Site, WriteSAE], n: int) -> InitialState:
    """The state with each of these heads replaced by its approximation in n atoms; other heads stay."""
    tensors = {i: t.clone() for i, t in state.tensors.items()}
    for site, sae in dictionaries.items():
        _, found = pursue(sae.atoms(torch.arange(sae.config.n_features)), site_matrix(state, layout, site), n)[-1]
        layout.family.recurrence.matrix(tensors[site.layer])[site.head] = found
    return state.replace(tensors=tensors)
