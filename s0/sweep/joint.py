"""Cells of a sweep that differ only in how they train (learning rate, layers, alpha in training, seeds) train in one fit.

Before such cells are run, `train_ahead` samples and verifies once for all of them and learns every state that is missing,
folds of alpha=auto included; then each cell finds its states in the store, under the keys it would have stored them
under itself. On CPU a state learned in company is the one learned alone bit for
bit, on CUDA up to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s0.config.resolve import to_json
from s0.config.schema import Config
from s0.data import digest
from s0.experiment.alpha import choose_alphas, trainings_of
from s0.experiment.cell import Cell
from s0.experiment.learn import FUSED, context, learn
from s0.experiment.resources import Resources
from s0.methods import Training, TrainingSet, make_method
from s0.storage.records import find_record
from s0.sweep.plan import Planned

#: sections that cells trained together share: everything that decides what is sampled, verified, and fitted at once
SHARED = ("model", "task", "engine", "sandbox", "train", "store")


def groups(cells: Sequence[Planned], numbers: Sequence[int], processes: int = 1) -> list[list[int]]:
    """The cells at positions `numbers`, grouped into those to train together, in the order of each group's first.

    Cells that need the very same trainings (alphas applied after training) stay apart: the first of them trains for all.
    A group has at most FUSED trainings, or its share where several processes work on the plan, unless one cell has more.
    """
    out: list[list[int]] = []
    alike: dict[str, list[int]] = {}
    for n in numbers:
        config = cells[n].config
        method = make_method(config.method)
        joint = method.joint_key()
        shared = to_json(config)
        key = digest([method.name, joint, *(shared[s] for s in SHARED)])
        if joint is None or key not in alike:
            out.append([])
            alike[key] = out[-1]
        alike[key].append(n)
    return [part for group in out for part in _parts(group, [_trainings(cells[n].config) for n in group], processes)]


def _trainings(config: Config) -> set[tuple[str, int, int]]:
    """What tells the trainings of a cell from those of the others in its group: settings, seed, fold (0: no fold)."""
    settings = digest([make_method(config.method).determinants(), config.method.solutions])
    folds = 3 if getattr(config.method, "alpha", None) == "auto" else 1
    return {(settings, seed, fold) for seed in config.seed for fold in range(folds)}


def _parts(group: list[int], trainings: list[set[tuple[str, int, int]]], processes: int) -> list[list[int]]:
    every = set().union(*trainings)
    if len(every) == max(len(t) for t in trainings):
        return [[n] for n in group]
    most = min(FUSED, -(-len(every) // processes))
    parts: list[list[int]] = []
    held: set[tuple[str, int, int]] = set()
    for n, mine in zip(group, trainings, strict=True):
        if not parts or len(held | mine) > most:
            parts.append([])
            held = set()
        parts[-1].append(n)
        held |= mine
    return parts


def train_ahead(configs: Sequence[Config], resources: Resources) -> list[dict[str, float]]:
    """Have the trainings of all these cells (one of `groups`) in the store. Returns each cell's share of the seconds spent,
    by stage.

    Cells with all their records, and cells that cannot be trained (their own run says why), are left out. Raises S0Error.
    """
    spent: list[dict[str, float]] = [{} for _ in configs]
    cells = [Cell(c, resources) for c in configs]
    try:
        todo = [_missing(cell) for cell in cells]
        if sum(map(bool, todo)) < 2:
            return spent
        for cell in cells:
            cell.check_references()
        first = cells[0]
        samples = first.sample(sorted(set().union(*todo)))
        examples = {s: first.examples(completions)[0] for s, completions in samples.items()}
        start = time.monotonic()
        wanted = [_prepared(cell, seeds, examples) if seeds else [] for cell, seeds in zip(cells, todo, strict=True)]
        if sum(map(bool, wanted)) > 1:
            learn(first.store, first.checkpoint, [training for some in wanted for training in some], first.config.train)
        seconds = time.monotonic() - start
        for share, seeds, mine in zip(spent, todo, wanted, strict=True):
            if seeds:
                share["sample"] = first.wall["sample"] * len(seeds) / sum(map(len, todo))
                share["train"] = seconds * len(mine) / max(1, sum(map(len, wanted)))
        return spent
    finally:
        for cell in cells:
            cell.grader.close()


def _missing(cell: Cell) -> list[int]:
    """Seeds without a record; none where that cannot be told."""
    folder = Path(cell.config.records)
    try:
        return [s for s in cell.config.seed if not find_record(folder, cell.record_key(s))]
    except Exception:
        return []


def _prepared(cell: Cell, seeds: list[int], examples: dict[int, list[Any]]) -> list[Training]:
    """What the cell has to train, checked as far as that goes without training; nothing where a check fails."""
    ctx = context(cell.checkpoint, cell.config.train)
    try:
        sets = {s: TrainingSet(s, cell.subset(examples[s], s)) for s in seeds if examples[s]}
        trainings = trainings_of(cell, sets, choose_alphas(cell, sets)[1])
        for method, one in trainings:
            method.check(ctx, one)
    except Exception:
        return []
    return trainings
