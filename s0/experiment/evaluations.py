"""Baseline, tuned and control evaluations of all seeds of a cell, made together."""

from __future__ import annotations

from typing import Any

from s0.experiment.alpha import AlphaChoice, at_alpha
from s0.experiment.cell import Cell, EvalRequest
from s0.experiment.learn import adapter_key
from s0.methods import Adapter, TrainingSet
from s0.methods.s0 import S0Adapter
from s0.state.initial import InitialState
from s0.storage.records import Evaluation

#: seed offset of the control's random direction, so that it shares nothing with other uses of the seed
CONTROL_SEED = 7_919


def evaluations_of(
    cell: Cell,
    seeds: list[int],
    sets: dict[int, TrainingSet],
    adapters: dict[int, Adapter],
    alphas: dict[int, AlphaChoice],
) -> dict[str, Any]:
    """Baseline, tuned and control evaluations of all seeds, made together. With the greedy protocol the baseline is one
    evaluation shared by all seeds (also by those without a solution); sampled, it has a seed of its own."""
    t = cell.config["task"]
    n, legacy = t["eval_samples"], t["legacy_padding"]
    every = cell.config["seed"] if n == 1 else seeds
    wanted: list[EvalRequest] = []
    roles: list[tuple[str, int]] = []

    def want(role: str, seed: int, label: str, **kw: Any) -> None:
        wanted.append(EvalRequest(label, f"evaluate {role}", cell.heldout, n_samples=n, seed=seed, legacy=legacy, **kw))
        roles.append((role, seed))

    for seed in every if n > 1 else every[:1]:
        want("baseline", seed, "baseline")
    for seed in seeds if cell.method.name != "none" else []:
        adapter = adapters[seed]
        key = adapter_key(cell.checkpoint, cell.method, sets[seed])
        if adapter.state is None:
            want("tuned", seed, cell.method.label(), adapter_key=key, adapter=adapter)
            continue
        alpha = alphas[seed].alpha
        assert alpha is not None
        assert isinstance(adapter, S0Adapter)
        state = at_alpha(adapter.state, alpha, cell)
        want("tuned", seed, cell.method.label(), adapter_key=key, state=state)
        if cell.config["method"]["control"]:
            control = InitialState.random(
                cell.checkpoint.layout, state.norms(), seed + CONTROL_SEED, alpha=state.alpha, normalize=state.normalize
            )
            want("random_state", seed, "random state", adapter_key=f"random:{key}", state=control)
    results = dict(zip(range(len(wanted)), cell.evaluate(wanted), strict=True))
    out: dict[str, Any] = {"baseline": {}, "tuned": {}, "controls": {}, "baseline_key": {}}
    for i, (role, seed) in enumerate(roles):
        e: Evaluation = results[i]
        if role == "random_state":
            out["controls"].setdefault(seed, {})[role] = e
            continue
        out[role][seed] = e
        if role == "baseline":
            out["baseline_key"][seed] = wanted[i].log(cell)
    if n == 1:
        first = every[0]
        for seed in every:
            out["baseline"][seed] = out["baseline"][first]
            out["baseline_key"][seed] = out["baseline_key"][first]
    if cell.method.name == "none":
        out["tuned"] = dict(out["baseline"])
    return out
