"""Baseline, tuned and control evaluations of all seeds of a cell, made together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from s0.experiment.cell import Cell, EvalRequest
from s0.experiment.learn import adapter_key
from s0.methods import Adapter, AlphaChoice, TrainingSet
from s0.state.initial import InitialState
from s0.storage.records import Evaluation

#: seed offset of the control's random direction, so that it shares nothing with other uses of the seed


def evaluations_of(
    cell: Cell,
    seeds: list[int],
    sets: dict[int, TrainingSet],
    adapters: dict[int, Adapter],
    alphas: dict[int, AlphaChoice],
) -> dict[str, Any]:
    """Baseline, tuned and control evaluations of all seeds, made together. With the greedy protocol the baseline is one
    evaluation shared by all seeds (also by those without a solution); sampled, it has a seed of its own."""
    t = cell.config.task
    n, legacy = t.eval_samples, t.legacy_padding
    every = cell.config.seed if n == 1 else seeds
    wanted: list[EvalRequest] = []
    roles: list[tuple[str, int]] = []

    def want(
        role: str,
        seed: int,
        label: str,
        key: str = "",
        adapter: Adapter | None = None,
        state: InitialState | None = None,
    ) -> None:
        request = EvalRequest.of(label, f"evaluate {role}", cell.heldout, key, adapter)
        wanted.append(replace(request, state=state or request.state, n_samples=n, seed=seed, legacy=legacy))
        roles.append((role, seed))

    for seed in every if n > 1 else every[:1]:
        want("baseline", seed, "baseline")
    for seed in seeds if cell.method.trains else []:
        adapter = adapters[seed]
        key = adapter_key(cell.checkpoint, cell.method, sets[seed])
        used = adapter.at(alphas[seed].alpha, cell.config.method)
        want("tuned", seed, cell.method.label(), key, used)
        if used.state is not None and (control := cell.method.control(used, cell.checkpoint.layout, seed)) is not None:
            want("random_state", seed, "random state", f"random:{key}", state=control)
    results = dict(zip(range(len(wanted)), cell.evaluate(wanted), strict=True))
    out: dict[str, Any] = {"baseline": {}, "tuned": {}, "controls": {}, "keys": {}}
    for i, (role, seed) in enumerate(roles):
        e: Evaluation = results[i]
        out["keys"].setdefault(seed, {})[role] = wanted[i].log(cell)
        if role == "random_state":
            out["controls"].setdefault(seed, {})[role] = e
            continue
        out[role][seed] = e
    if n == 1:
        first = every[0]
        for seed in every:
            out["baseline"][seed] = out["baseline"][first]
            out["keys"].setdefault(seed, {})["baseline"] = out["keys"][first]["baseline"]
    if not cell.method.trains:
        out["tuned"] = dict(out["baseline"])
        for seed in seeds:
            out["keys"][seed]["tuned"] = out["keys"][seed]["baseline"]
    return out
