"""How alpha is set: as configured, as the architecture documents, or chosen on training problems (`alpha=auto`)."""

from __future__ import annotations

import random

from s0.data import Problem
from s0.experiment.cell import Cell, EvalRequest
from s0.experiment.learn import adapter_key
from s0.methods import Adapter, AlphaChoice, Training, TrainingSet

Folds = dict[int, list[tuple[TrainingSet, list[Problem]]]]


def choose_alphas(cell: Cell, sets: dict[int, TrainingSet]) -> tuple[dict[int, AlphaChoice], Folds]:
    """How alpha is set per seed, and for "auto" the folds (a training set, the problems to evaluate it on) per seed.

    "auto" is two-fold cross-validation over the training problems: a state learned on one half is evaluated greedily on
    the other and the other way round, for every alpha of the grid; the best mean wins, the smallest alpha among equals.
    The halves are drawn at random once for all seeds: benchmarks have structure in their order (minieval's domains
    alternate, and halves by parity would have measured transfer between domains). Held-out problems play no part (the
    published alphas were chosen on them). The folds are trained in the same batch as the final states; `decide_alphas`
    does the rest.
    """
    method = cell.method
    if not method.has_alpha:
        return {s: AlphaChoice() for s in sets}, {}
    fixed = method.alpha(cell.checkpoint.layout)
    if fixed is not None:
        return dict.fromkeys(sets, fixed), {}
    shuffled = [p.id for p in cell.train_problems]
    random.Random("folds of alpha=auto").shuffle(shuffled)
    half = {problem_id: n % 2 for n, problem_id in enumerate(shuffled)}
    folds: Folds = {}
    for seed, one in sets.items():
        folds[seed] = []
        for fold in (0, 1):
            part = [e for e in one.examples if half[e.problem_id] == fold]
            others = [p for p in cell.train_problems if half[p.id] != fold]
            if part and others:
                folds[seed].append((TrainingSet(seed, part), others))
    default = method.default_alpha(cell.checkpoint.layout)
    return {s: AlphaChoice(default, "architecture default (too few problems for auto)") for s in sets}, folds


def trainings_of(cell: Cell, sets: dict[int, TrainingSet], folds: Folds) -> list[Training]:
    """What a cell has to train: a state per seed, and one per fold."""
    extra = [one for parts in folds.values() for one, _ in parts]
    return [(cell.method, one) for one in [*sets.values(), *extra]]


def decide_alphas(cell: Cell, choices: dict[int, AlphaChoice], folds: Folds, trained: dict[str, Adapter]) -> None:
    """Evaluate all folds of all seeds at every alpha in one batch and set each seed's choice."""
    if not folds:
        return
    grid = sorted(set(cell.method.settings.alpha_grid))
    wanted: list[EvalRequest] = []
    owners: list[tuple[int, float]] = []
    for seed, parts in folds.items():
        for fold, problems in parts:
            key = adapter_key(cell.checkpoint, cell.method, fold)
            for a in grid:
                adapter = trained[key].at(a, cell.config.method)
                wanted.append(EvalRequest.of(f"alpha {a:g}", "choose alpha", problems, key, adapter))
                owners.append((seed, a))
    passed: dict[tuple[int, float], list[bool]] = {}
    for owner, evaluation in zip(owners, cell.evaluate(wanted), strict=True):
        passed.setdefault(owner, []).extend(o.passed for o in evaluation.outcomes)
    for seed in {s for s, _ in owners}:
        scores = {a: sum(passed[seed, a]) / len(passed[seed, a]) for a in grid}
        best = max(scores.values())
        alpha = next(a for a in grid if scores[a] == best)
        choices[seed] = AlphaChoice(alpha, "auto", {f"{a:g}": v for a, v in scores.items()})
