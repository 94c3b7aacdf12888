"""One cell of an experiment (a model, a task, a method) over its seeds, from config to records.

    config -> problems -> completions -> verdicts -> examples -> adapter -> evaluation -> record

`run_cell` is the whole experiment on one screen. Every stage asks the store first, so another alpha, method or seed
reuses what it can and a killed run goes on where it stopped.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

from s0.config.resolve import to_json
from s0.config.schema import Config
from s0.config.seeds import ranges
from s0.data import Example
from s0.experiment.alpha import choose_alphas, decide_alphas, trainings_of
from s0.experiment.cell import Cell
from s0.experiment.checkpoint import Checkpoint
from s0.experiment.evaluations import evaluations_of
from s0.experiment.learn import adapter_folder, adapter_key, context, train
from s0.experiment.resources import Resources
from s0.methods import Adapter, AlphaChoice, TrainingSet
from s0.runtime.environment import git_state, versions
from s0.storage import keys
from s0.storage.records import Evaluation, Record, TrainingSummary, find_record, write_record

NO_SOLUTIONS = "none of the {n} sampled completions passed verification, so there is nothing to train on"


def run_cell(
    config: Config, resources: Resources, command: str = "", spent: dict[str, float] | None = None
) -> list[Record]:
    """All records of one cell, one per seed: found if they exist, computed otherwise. `spent` seconds by stage were
    already used on it (s0.sweep.joint). Raises S0Error."""
    cell = Cell(config, resources)
    cell.wall |= spent or {}
    try:
        folder = Path(config.records)
        keys = {seed: cell.record_key(seed) for seed in config.seed}
        found = {seed: r for seed in config.seed if (r := find_record(folder, keys[seed]))}
        todo = [seed for seed in config.seed if seed not in found]
        cell.store.take_counts()
        if not todo:
            print(f"  {_name(cell)}: {len(found)} of {len(found)} records reused, nothing done again", flush=True)
        if todo:
            print(
                f"  {_name(cell)}: seeds {ranges(todo)}",
                flush=True,
            )
            cell.check_references()
            if cell.method.trains:  # a method that cannot learn on this model says so before anything is sampled
                cell.method.check(context(cell.checkpoint, config.train), TrainingSet(todo[0], []))
            samples = cell.sample(todo) if cell.method.trains else {seed: [] for seed in todo}
            solutions: dict[int, tuple[list[Example], int]] = {
                s: cell.examples(samples[s]) if samples[s] else ([], 0) for s in todo
            }
            trainable = [s for s in todo if solutions[s][0] or not cell.method.trains]
            sets = {s: TrainingSet(s, cell.subset(solutions[s][0], s)) for s in trainable}
            adapters: dict[int, Adapter] = {}
            alphas: dict[int, AlphaChoice] = {}
            if cell.method.trains and trainable:
                with cell.timed("train"):
                    alphas, folds = choose_alphas(cell, sets)
                    trained = train(cell.store, cell.checkpoint, trainings_of(cell, sets, folds), config.train)
                    decide_alphas(cell, alphas, folds, trained)
                    for s in trainable:
                        adapters[s] = trained[adapter_key(cell.checkpoint, cell.method, sets[s])]
            with cell.timed("evaluate"):
                evaluated = evaluations_of(cell, trainable, sets, adapters, alphas)
            environment = describe_environment(cell.checkpoint, resources, cell.engine, command)
            for seed in todo:
                record, problems = _record(
                    cell,
                    seed,
                    keys[seed],
                    solutions[seed],
                    adapters.get(seed),
                    adapter_key(cell.checkpoint, cell.method, sets[seed]) if seed in adapters else "",
                    alphas.get(seed),
                    evaluated,
                    environment,
                )
                write_record(folder, record, problems)
                found[seed] = record
            _say_reuse(cell, len(config.seed) - len(todo))
        return [found[seed] for seed in config.seed]
    finally:
        cell.grader.close()


def _name(cell: Cell) -> str:
    return f"{cell.checkpoint.name} / {cell.task.name} / {cell.method.label()}"


def _say_reuse(cell: Cell, records: int) -> None:
    """One line: how much of what was needed was stored already. The rest was made now, because it or something it depends on
    (a setting, a prompt, a stop string, the code that makes or judges it) was not there before."""
    judged = len(cell.grader.judged)
    counts = {"records": (records, len(cell.config.seed)), **cell.store.take_counts()}
    counts["verdicts"] = (len(cell.grader.submitted) - judged, len(cell.grader.submitted))
    parts = [f"{found} of {needed} {kind}" for kind, (found, needed) in counts.items() if needed]
    print(f"  reused: {', '.join(parts)}", flush=True)


def _record(
    cell: Cell,
    seed: int,
    key: str,
    solutions: tuple[list[Example], int],
    adapter: Adapter | None,
    learned: str,
    alpha: AlphaChoice | None,
    evaluated: dict[str, Any],
    environment: dict[str, Any],
) -> tuple[Record, list[dict[str, Any]]]:
    config, task = cell.config, cell.config.task
    examples, passed = solutions
    trains = cell.method.trains
    n_samples = len(cell.train_problems) * task.samples_per_problem if trains else 0
    solved = adapter is not None or not trains
    state = adapter.state if adapter else None
    norms = state.norms() if state else {}
    curve = adapter.curve if adapter else None
    used = config.method.solutions or len(examples)
    baseline: Evaluation | None = evaluated["baseline"].get(seed)
    tuned: Evaluation | None = evaluated["tuned"].get(seed)
    controls: dict[str, Evaluation] = evaluated["controls"].get(seed, {})
    record = Record(
        key=key,
        status="ok" if solved else "no_solutions",
        experiment=config.experiment,
        model=cell.checkpoint.name,
        task=cell.task.name,
        method=cell.method.name,
        seed=seed,
        alpha=alpha.alpha if alpha else None,
        error=None if solved else NO_SOLUTIONS.format(n=n_samples),
        config={**to_json(config), "seed": seed},
        config_hash=keys.config(config),
        model_info={
            **cell.checkpoint.info(),
            **cell.checkpoint.loaded_info(),
            "chat_template": cell.checkpoint.chat_template,
        },
        task_info={
            "name": cell.task.name,
            "dataset_hash": cell.task.dataset_hash(),
            "n_train": len(cell.train_problems),
            "n_heldout": len(cell.heldout),
            "source": str(getattr(cell.task, "source", "")),
            "grading": str(getattr(cell.task, "grading", "")),
            "left_out": cell.left_out or {},
        },
        method_info={
            "label": cell.method.label(),
            "trainable_params": adapter.trainable_params if adapter else 0,
            "inference_cost": cell.method.inference_cost,
        },
        training=TrainingSummary(
            n_problems=len(cell.train_problems) if trains else 0,
            n_samples=n_samples,
            n_passed=passed,
            n_solutions=min(used, len(examples)) if trains else 0,
            losses=curve.losses if curve else [],
            objective=curve.objective if curve else [],
            grad_norms=curve.grad_norms if curve else [],
            avg_state_norm=sum(norms.values()) / len(norms) if norms else 0.0,
            alpha=alpha.alpha if alpha else None,
            alpha_source=alpha.source if alpha else "",
            alpha_scores=alpha.scores if alpha else {},
        ),
        baseline=baseline,
        tuned=tuned,
        controls=controls,
        baseline_key=evaluated["keys"].get(seed, {}).get("baseline", ""),
        evaluation_keys=evaluated["keys"].get(seed, {}),
        adapter={"key": learned, "folder": str(adapter_folder(cell.store, cell.method, learned))} if learned else None,
        environment=environment,
        wall_s={**{k: round(v, 3) for k, v in cell.wall.items()}, "grade": round(cell.grader.seconds, 3)},
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    return record, problem_lines(cell, baseline, tuned, controls)


def problem_lines(
    cell: Cell, baseline: Evaluation | None, tuned: Evaluation | None, controls: dict[str, Evaluation]
) -> list[dict[str, Any]]:
    """One JSON line per held-out problem: prompt, and every evaluation's completion and verdict."""
    named = {"baseline": baseline, "tuned": tuned, **controls}
    lines = []
    for n, p in enumerate(cell.heldout):
        line: dict[str, Any] = {"id": p.id, "prompt": p.prompt, "meta": p.meta}
        for label, e in named.items():
            if e is not None:
                line[label] = e.outcomes[n].to_json()
        lines.append(line)
    return lines


def describe_environment(checkpoint: Checkpoint, resources: Any, engine: Any, command: str) -> dict[str, Any]:
    """commit, dirty, versions, device, threads, isolation tier, platform, determinism and the command line."""
    import torch

    cuda = checkpoint.device.startswith("cuda")
    return {
        **git_state(),
        "versions": versions(),
        "python": platform.python_version(),
        "device": checkpoint.device,
        "device_name": checkpoint.device_name,
        "n_threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
        "isolation": resources.tier(),
        "engine": dict(engine.notes),
        # CUDA matrix products and scatter-adds choose kernels by shape: repeated runs agree closely, not bit for bit
        "deterministic": not cuda,
        "command": command,
    }
