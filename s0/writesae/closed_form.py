"""Closed form: the change of a logit at t+h caused by a small change p r' of S_t, predicted without a forward pass.

exact     sum_s (q_s . x_s) (J_s . r), s = t..t+h: exact propagator, Jacobian J of the logit by the kernel's outputs
read_at_s only the last of these terms      scalar: the propagator without erasing      equation_1: G (p . q_s) r'W_O'W_U
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from s0.kernels.writes import Factors, propagate, tap
from s0.state.families import Layout
from s0.writesae.capture import Site
from s0.writesae.substitute import Firings

TERMS = ("exact", "read_at_s", "scalar", "equation_1")


def output_rows(mixer: Any, head: int, value_dim: int) -> Tensor:
    """W_O of one head: [hidden size, value dim]."""
    projection = getattr(mixer, "out_proj", None) or mixer.o_proj
    return projection.weight[:, head * value_dim : (head + 1) * value_dim]


def predictions(
    model: Any, layout: Layout, site: Site, ids: Tensor, firings: Firings, p: Tensor, r: Tensor, horizon: int
) -> tuple[dict[str, Tensor], Tensor]:
    """(term -> predicted change per unit of p r' [N], the tokens [N] whose logit it is: the base model's first choice).

    ids [N, T] right-padded, one row per firing; t + horizon must lie inside each row."""
    t, rows = firings.position, torch.arange(len(ids))
    held: list[Tensor] = []
    seen: list[Factors] = []

    def edit(f: Factors) -> Tensor:
        seen.append(f)
        held.append(torch.zeros_like(f.o).requires_grad_())
        return held[0]

    with torch.enable_grad(), tap(layout, edit={site.layer: edit}):
        logits = model(input_ids=ids, use_cache=False).logits[rows, t + horizon].float()
    token = logits.argmax(-1)
    (jacobian,) = torch.autograd.grad(logits[rows, token].sum(), held[0])
    with torch.no_grad():
        j = (jacobian[:, :, site.head].float() * r[:, None]).sum(-1)  # [N, T]
        f = seen[0].head(site.head)
        f = Factors(**{n: x.detach() for n, x in f.__dict__.items()})
        reads = propagate(f, t, p)
        scalar = propagate(replace(f, b=torch.zeros_like(f.b)), t, p)
        last = reads[rows, t + horizon] * j[rows, t + horizon]
        unembedding = model.get_output_embeddings().weight[token].float()
        direct = (unembedding @ output_rows(layout.mixers[site.layer], site.head, r.shape[1]).float() * r).sum(1)
        terms = {
            "exact": (reads * j).sum(1),
            "read_at_s": last,
            "scalar": (scalar * j).sum(1),
            "equation_1": scalar[rows, t + horizon] * direct,
        }
    return terms, token


@torch.no_grad()
def measured(
    model: Any,
    layout: Layout,
    site: Site,
    ids: Tensor,
    firings: Firings,
    p: Tensor,
    r: Tensor,
    horizon: int,
    token: Tensor,
) -> Tensor:
    """Change [N] of the tokens' logits at t + horizon with p r' added to S_t."""
    rows, t = torch.arange(len(ids)), firings.position

    def logit(size: float) -> Tensor:
        def edit(f: Factors) -> Tensor:
            more = torch.zeros_like(f.o)
            more[:, :, site.head] = size * propagate(f.head(site.head), t, p)[..., None] * r[:, None]
            return more

        with tap(layout, edit={site.layer: edit}):
            out: Tensor = model(input_ids=ids, use_cache=False).logits[rows, t + horizon, token].double()
        return out

    return logit(1.0) - logit(0.0)


def r_squared(predicted: Tensor, found: Tensor) -> float:
    """1 - sum of squared errors / sum of squares about the mean; nothing is fitted."""
    error = (predicted.double() - found.double()).square().sum()
    return float(1 - error / (found.double() - found.double().mean()).square().sum().clamp_min(1e-300))
