"""Failed seeds: kept as records, told at the end with the command that runs them again."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s0.config.resolve import to_json
from s0.config.schema import Config
from s0.errors import S0Error
from s0.runtime.environment import git_state
from s0.storage import keys
from s0.storage.files import write_json
from s0.storage.records import Record, TrainingSummary, record_stem
from s0.sweep.plan import Planned


@dataclass(frozen=True)
class Failure:
    """Seeds of one cell that failed together, why, the exit code of that kind of error, and how to run them again."""

    label: str
    seeds: list[int]
    message: str
    exit_code: int
    command: str


def note_failed(cell: Planned, seed: int, error: Exception, show: bool) -> Failure:
    """Note a failed seed as a record. A bug's traceback goes to stderr; an expected error is one line at the end."""
    message = one_line(error)
    if show and not isinstance(error, S0Error):
        traceback.print_exception(error)
    try:
        write_failed(cell, seed, message)
    except S0Error as second:
        message += f" (and the failure could not be recorded: {second})"
    return failure_of(cell, [seed], message, getattr(error, "exit_code", S0Error.exit_code))


def one_line(error: Exception) -> str:
    """The error as one line."""
    return " ".join((str(error) if isinstance(error, S0Error) else f"{type(error).__name__}: {error}").split())


def failure_of(cell: Planned, seeds: list[int], message: str, exit_code: int) -> Failure:
    return Failure(cell.label(), seeds, message, exit_code, cell.rerun(seeds))


def merge_failures(cell: Planned, failures: list[Failure]) -> list[Failure]:
    """Seeds that failed with the same words are one failure."""
    seeds: dict[tuple[str, int], list[int]] = {}
    for f in failures:
        seeds.setdefault((f.message, f.exit_code), []).extend(f.seeds)
    return [failure_of(cell, some, message, code) for (message, code), some in seeds.items()]


def record_path(config: Config, record: Any) -> Path:
    return Path(config.records) / f"{record_stem(record)}.json"


def failed_path(config: Config, seed: int) -> Path:
    """Where a failed seed is noted: one fixed name per config and seed, so that a later success can remove it."""
    stem = f"{config.model.label}__{config.task.name}__{config.method.name}__seed{seed}__failed-{keys.config(config)}"
    return Path(config.records) / f"{stem}.json"


def write_failed(cell: Planned, seed: int, message: str) -> None:
    """Write the record of a failed seed. Raises StoreError when even that is impossible."""
    config = cell.config
    path = failed_path(config, seed)
    record = Record(
        key=path.stem.rpartition("__")[2],
        status="failed",
        experiment=config.experiment,
        model=path.stem.split("__")[0],
        task=config.task.name,
        method=config.method.name,
        seed=seed,
        alpha=None,
        error=message,
        config={**to_json(config), "seed": seed},
        config_hash=keys.config(config),
        model_info={"name": path.stem.split("__")[0], "path": str(config.model.path)},
        task_info={"name": config.task.name},
        method_info={"label": config.method.name, "trainable_params": 0, "inference_cost": ""},
        training=TrainingSummary(),
        baseline=None,
        tuned=None,
        controls={},
        baseline_key="",
        environment={**git_state(), "command": cell.command},
        wall_s={},
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    write_json(path, record.to_json())


def show_failures(failures: Sequence[Failure]) -> None:
    """One line per failure, and how to run it again."""
    for f in failures:
        seeds = ",".join(map(str, f.seeds))
        print(f"failed: {f.label} / seed {seeds}: {f.message}; rerun: {f.command}", file=sys.stderr)
