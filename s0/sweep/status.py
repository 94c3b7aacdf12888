"""What a command would do, and how far it is, without doing it: no model, data set or download is touched."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s0.config.resolve import to_json
from s0.config.schema import Config
from s0.config.seeds import ranges
from s0.errors import StoreError
from s0.storage import keys
from s0.storage.records import Record, find_records, read_record
from s0.storage.store import Store
from s0.sweep.ledger import claim_name
from s0.sweep.plan import Planned


@dataclass(frozen=True)
class State:
    """Seeds of one cell: done (a record exists), running (claimed now, with the holder), failed (with the error), missing."""

    done: list[int] = field(default_factory=list)
    running: dict[int, str] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class JointRun:
    """Records computed together: their wall times are the batch's, not one seed's."""

    kind: tuple[Any, ...]
    seconds: float
    seeds: int


class Index:
    """Records of the plan's folders by (config hash, seed). Unreadable ones are told on stderr and left out."""

    def __init__(self, folders: Iterable[Path]):
        self.by_seed: dict[tuple[str, int], Record] = {}
        self.failed: dict[tuple[str, int], Record] = {}
        groups: dict[tuple[Any, ...], JointRun] = {}
        for folder in sorted(set(folders)):
            for path in find_records([folder]) if folder.is_dir() else []:
                try:
                    record = read_record(path)
                except StoreError as error:
                    print(f"warning: {error}", file=sys.stderr)
                    continue
                (self.failed if record.status == "failed" else self.by_seed)[record.config_hash, record.seed] = record
                if record.status == "ok":
                    kind = _kind(record.model, record.config)
                    key = (kind, record.config_hash, tuple(sorted(record.wall_s.items())))
                    seen = groups.get(key)
                    total = sum(v for k, v in record.wall_s.items() if k != "grade")  # graded while sampling
                    groups[key] = JointRun(kind, total, (seen.seeds if seen else 0) + 1)
        self.batches = list(groups.values())

    def state(self, config: Config) -> State:
        store, hashed, state = Store(config.store), keys.config(config), State()
        for seed in config.seed:
            if (hashed, seed) in self.by_seed:
                state.done.append(seed)
            elif who := store.holder_of(claim_name(config, seed)):
                state.running[seed] = who
            elif (hashed, seed) in self.failed:
                state.failed[seed] = self.failed[hashed, seed].error or "unknown error"
            else:
                state.missing.append(seed)
        return state

    def estimate(self, config: Config, seeds: int) -> float | None:
        """Seconds for so many seeds of this cell: the median of finished records of the same model, task, method and
        amount of work; None where there is none."""
        kind = _kind(config.model.label, to_json(config))
        known = sorted(b.seconds / b.seeds for b in self.batches if b.kind == kind)
        return known[len(known) // 2] * seeds if known else None


def _kind(model: str, config: dict[str, Any]) -> tuple[Any, ...]:
    """What makes the cost of two cells comparable."""
    task = config["task"]
    sizes = ("n_train", "n_eval", "samples_per_problem", "max_new_tokens", "eval_samples")
    return (model, task["name"], config["method"]["name"], *(task.get(k) for k in sizes))


def index_of(cells: Sequence[Planned]) -> Index:
    return Index(Path(c.config.records) for c in cells)


def print_plan(cells: Sequence[Planned]) -> None:
    """One line per cell: what exists, what would run, and the cost; then the sum."""
    index = index_of(cells)
    total = done = 0
    cost: float | None = 0.0
    for n, cell in enumerate(cells):
        state = index.state(cell.config)
        todo = [s for s in cell.config.seed if s not in state.done]
        total, done = total + len(cell.config.seed), done + len(state.done)
        seconds = index.estimate(cell.config, len(todo)) if todo else 0.0
        cost = None if cost is None or seconds is None else cost + seconds
        line = f"  [{n + 1}/{len(cells)}] {cell.label()}: "
        parts = [f"{len(state.done)} record(s) reused"] if state.done else []
        if todo:
            parts.append(f"to run: seed {ranges(todo)}, estimated {duration(seconds)}")
        print(line + "; ".join(parts))
    print(
        f"{len(cells)} cell(s), {total} record(s): {done} exist, {total - done} to run; estimated "
        f"{duration(cost)}. Records are matched by config; the model's files and the data are checked when it runs."
    )


def print_status(cells: Sequence[Planned]) -> int:
    """Done, running, failed and missing seeds of every cell. Returns 0 when all are done, 1 otherwise."""
    index = index_of(cells)
    sums = {"done": 0, "running": 0, "failed": 0, "missing": 0}
    for n, cell in enumerate(cells):
        state = index.state(cell.config)
        parts = [f"done {ranges(state.done)}"] if state.done else []
        parts += [f"running {ranges(list(state.running))} ({', '.join(sorted(set(state.running.values())))})"] * bool(
            state.running
        )
        parts += [f"failed {ranges(list(state.failed))}"] * bool(state.failed)
        parts += [f"missing {ranges(state.missing)}"] * bool(state.missing)
        print(f"  [{n + 1}/{len(cells)}] {cell.label()}: {'; '.join(parts)}")
        for message in dict.fromkeys(state.failed.values()):
            seeds = [s for s, m in state.failed.items() if m == message]
            print(f"      failed {ranges(seeds)}: {message}; rerun: {cell.rerun(seeds)}")
        for name in sums:
            sums[name] += len(getattr(state, name))
    print(f"{len(cells)} cell(s): " + ", ".join(f"{count} {name}" for name, count in sums.items()))
    return int(sums["done"] < sum(sums.values()))


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown (no comparable record yet)"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
