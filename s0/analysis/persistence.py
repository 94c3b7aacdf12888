"""How long does the learned state keep changing the model's predictions while it reads the prompt?

KL(tuned || zero state) of the next-token distribution at every prompt position, relative to position 0, an exponential
fitted to it, and the rate the decay gates alone would give. Paper: persistence analysis (0.03 % at the prompt's end).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s0.state.families import Layout
from s0.state.gates import run_prompt, state_of, surviving_energy
from s0.state.initial import InitialState

#: below this ratio a KL from float32 logits is rounding noise and says nothing about decay
FLOOR = 1e-9


def kl_divergence(tuned: Tensor, zero: Tensor) -> Tensor:
    """KL(softmax(tuned) || softmax(zero)) in nats per position, fp64 [tokens]; logits [tokens, vocabulary]."""
    p, q = tuned.double().log_softmax(-1), zero.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)


def fit_rate(ratio: Sequence[float]) -> float:
    """Decay rate per token of ratio ~ exp(-rate * t): least squares on the logarithm over the positions above `FLOOR`.

    KL also varies with how certain the next token is (fixed template tokens show next to none), which scatters around
    the line. NaN with fewer than 3 usable positions.
    """
    values = np.asarray(ratio, dtype=np.float64)
    t = np.flatnonzero(values > FLOOR)
    if len(t) < 3:
        return math.nan
    return -float(np.polyfit(t, np.log(values[t]), 1)[0])


def persistence(model: Any, layout: Layout, prompts: Sequence[Sequence[int]], state: InitialState) -> dict[str, Any]:
    """Persistence of `state` over tokenised prompts, each run alone (no padding). Returns plain JSON values:

    kl              mean KL in nats at each position, over the prompts that reach it
    ratio           kl / kl[0]
    counts          prompts that reach each position
    end_ratio       mean over prompts of KL at the last prompt token / KL at position 0
    rate            fitted decay rate of `ratio` per token, up to the shortest prompt's length (all prompts take part)
    predicted       the state's energy left by the gates, relative to position 0, per position
    predicted_rate  its fitted rate over the same positions: KL is quadratic in a small change, so it follows the energy
    """
    model.eval()
    kls, energies = [], []
    for prompt in prompts:
        tuned, _, gates = run_prompt(model, layout, prompt, state)
        zero, _, _ = run_prompt(model, layout, prompt)
        kls.append(kl_divergence(tuned.logits[0].cpu(), zero.logits[0].cpu()).numpy())
        energy = surviving_energy(gates, state).numpy()
        energies.append(energy / energy[0] if energy[0] > 0 else energy)
    longest, shortest = max(map(len, kls)), min(map(len, kls))
    counts = [sum(len(k) > t for k in kls) for t in range(longest)]
    kl = [float(np.mean([k[t] for k in kls if len(k) > t])) for t in range(longest)]
    predicted = [float(np.mean([e[t] for e in energies if len(e) > t])) for t in range(longest)]
    ends = [float(k[-1] / k[0]) for k in kls if k[0] > 0]
    ratio = [v / kl[0] if kl[0] > 0 else 0.0 for v in kl]
    return {
        "kl": kl,
        "ratio": ratio,
        "counts": counts,
        "end_ratio": _plain(float(np.mean(ends)) if ends else math.nan),
        "rate": _plain(fit_rate(ratio[:shortest])),
        "predicted": predicted,
        "predicted_rate": _plain(fit_rate(predicted[:shortest])),
        "n_prompts": len(kls),
    }


def _plain(value: float) -> float | None:
    """NaN has no JSON form."""
    return None if math.isnan(value) else value


@torch.no_grad()
def natural_norms(model: Any, layout: Layout, prompts: Sequence[Sequence[int]]) -> dict[int, float]:
    """layer -> mean Frobenius norm of the state the prompts themselves write, from a zero start."""
    norms: dict[int, list[float]] = {i: [] for i in layout.layers}
    for prompt in prompts:
        _, cache, _ = run_prompt(model, layout, prompt)
        for i in layout.layers:
            norms[i].append(float(state_of(cache, i).norm()))
    return {i: float(np.mean(v)) for i, v in norms.items()}
