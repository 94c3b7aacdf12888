"""Can the best alpha be read off the gates, without trying any? A prediction without a fitted constant.

The hypothesis: a learned state works when what reaches the prompt's positions is about as large as what the prompt
itself writes. With `natural` the norm of the prompt's own state, `norm` the learned state's before alpha, and `survival`
the root-mean-square over prompt positions of the share of it the gates let through,

    alpha = natural / (norm * survival).

It is tested against the measured best alpha of a sweep; it is not used to choose anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from s0.analysis.persistence import natural_norms
from s0.state.families import Layout
from s0.state.gates import run_prompt, surviving_energy
from s0.state.initial import InitialState


def predict_alpha(
    model: Any, layout: Layout, prompts: Sequence[Sequence[int]], state: InitialState
) -> dict[str, float]:
    """Predicted alpha of a learned state and what it is made of (plain JSON): `alpha`, `natural_norm` and `state_norm`
    (root sum of squares over layers), `survival` in (0, 1], `mean_log_decay` per token."""
    unit = state.replace(alpha=1.0)
    norm = math.sqrt(sum(float(t.double().pow(2).sum()) for t in unit.effective().values()))
    natural = natural_norms(model, layout, prompts)
    natural_norm = math.sqrt(sum(natural[i] ** 2 for i in unit.tensors))
    survivals, decays = [], []
    for prompt in prompts:
        _, _, gates = run_prompt(model, layout, prompt, state)
        survivals.append(float(surviving_energy(gates, unit).mean()) / norm**2)
        decays.append(sum(float(g.mean()) for g in gates.values()) / len(gates))
    survival = math.sqrt(sum(survivals) / len(survivals))
    return {
        "alpha": natural_norm / (norm * survival),
        "natural_norm": natural_norm,
        "state_norm": norm,
        "survival": survival,
        "mean_log_decay": sum(decays) / len(decays),
    }
