"""Run the analysis that a config asks for (`analysis: persistence`), on the states its records were made with.

    analyse(config, resources, records)     after `run_cell(config, resources)`

Everything is read from the store: nothing is sampled or trained again. A result that exists for the same record is kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s0.analysis.alpha import predict_alpha
from s0.analysis.persistence import persistence
from s0.analysis.probe import probe
from s0.config.registry import find, load
from s0.config.schema import Config
from s0.errors import DataError
from s0.experiment.cell import Cell, EvalRequest
from s0.experiment.learn import adapter_key, train
from s0.experiment.resources import Resources
from s0.methods import TrainingSet
from s0.state.initial import InitialState
from s0.storage.records import Record
from s0.storage.results import AnalysisResult, read_result, write_result


def persistence_of(cell: Cell, state: InitialState, record: Record) -> dict[str, Any]:
    prompts = [cell.prompt(p) for p in cell.heldout]
    return persistence(cell.checkpoint.model, cell.checkpoint.layout, prompts, state)


def alpha_prediction_of(cell: Cell, state: InitialState, record: Record) -> dict[str, Any]:
    prompts = [cell.prompt(p) for p in cell.train_problems]
    return dict(predict_alpha(cell.checkpoint.model, cell.checkpoint.layout, prompts, state))


def probe_of(cell: Cell, state: InitialState, record: Record) -> dict[str, Any]:
    """The base model on all problems of both parts; the seed shuffles the folds."""
    problems = [*cell.train_problems, *cell.heldout]
    baseline = cell.evaluate([EvalRequest("baseline", "evaluate baseline", problems)])[0]
    prompts = [cell.prompt(p) for p in problems]
    solved = [o.passed for o in baseline.outcomes]
    return probe(cell.checkpoint.model, cell.checkpoint.layout, prompts, solved, seed=record.seed)


def analyse(config: Config, resources: Resources, records: Sequence[Record]) -> list[Path]:
    """Results of `config.analysis`, written to `config.records`, one per record; their paths.

    No analysis, another method than S0, and records without a tuned model give none. Raises ConfigError for an unknown
    analysis and DataError when the store no longer leads to the state of a record.
    """
    name = config.analysis
    run = load(find("analysis", name).target) if name else None
    todo = [r for r in records if r.status == "ok" and r.method == "s0"] if name else []
    folder = Path(config.records)
    paths: list[Path] = []
    wanted: list[Record] = []
    for record in todo:
        path = folder / _result(name, record, {}).file_name
        if path.exists() and read_result(path).record_key == record.key:
            paths.append(path)
        else:
            wanted.append(record)
    if not wanted or run is None:
        return paths
    cell = Cell(config, resources)
    try:
        states = _states(cell, {r.seed: r.alpha for r in wanted})
        for record in wanted:
            state = states[record.seed]
            start = time.monotonic()
            values = run(cell, state, record)
            paths.append(write_result(folder, _result(name, record, values)))
            print(f"  {name}: seed {record.seed}, {time.monotonic() - start:.0f} s", flush=True)
    finally:
        cell.grader.close()
    return sorted(paths)


def _states(cell: Cell, alphas: dict[int, float | None]) -> dict[int, InitialState]:
    """seed -> the stored state its record was made with, as it was used."""
    seeds = sorted(alphas)
    samples = cell.sample(seeds)
    sets = {s: TrainingSet(s, cell.subset(cell.examples(samples[s])[0], s)) for s in seeds}
    trained = train(cell.store, cell.checkpoint, [(cell.method, one) for one in sets.values()], cell.config.train)
    states = {}
    for seed, one in sets.items():
        adapter = trained[adapter_key(cell.checkpoint, cell.method, one)]
        state = adapter.at(alphas[seed] or 1.0, cell.config.method).state
        if state is None:
            raise DataError(f"seed {seed}: method {cell.method.name} has no initial state to analyse; use method=s0")
        states[seed] = state
    return states


def _result(name: str, record: Record, values: dict[str, Any]) -> AnalysisResult:
    return AnalysisResult(
        analysis=name,
        experiment=record.experiment,
        model=record.model,
        task=record.task,
        seed=record.seed,
        alpha=record.alpha,
        values=values,
        record_key=record.key,
        config_hash=record.config_hash,
        environment=record.environment,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
