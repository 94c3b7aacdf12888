"""Many cells, worked through by one or more processes: none twice, a failing one does not stop the others.

A process takes a cell by claiming its seeds (operating-system locks in the store, free again when a process dies), runs
it, and notes the outcome. Cells that can train in one batch are taken together for that (s0.sweep.joint) and then run one by
one. What somebody else holds is waited for when nothing else is left, and taken over from a process that died. Only the
outcomes are kept here; results are records, found again by key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s0.cli.compose import Planned
from s0.config.schema import config_hash
from s0.data import digest
from s0.errors import ArchitectureError, ConfigError, S0Error, SandboxError
from s0.storage.files import write_json
from s0.storage.store import Store

#: errors that no choice of seeds can avoid: the seeds are not tried one by one
WHOLE_CELL = (ArchitectureError, ConfigError, SandboxError)
#: cells that took so many processes down while they trained together are run one by one
TOGETHER_ATTEMPTS = 2


@dataclass(frozen=True)
class Failure:
    """Seeds of one cell that failed together, why, the exit code of that kind of error, and how to run them again."""

    label: str
    seeds: list[int]
    message: str
    exit_code: int
    command: str


@dataclass(frozen=True)
class Outcome:
    """What became of one cell: paths of its records, and its failures."""

    records: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.records + other.records, self.failures + other.failures)


class Sweep:
    """The outcomes of a plan's cells by position: in memory, or in a folder that several processes share."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self._known: dict[int, Outcome] = {}

    @classmethod
    def create(cls, folder: Path, cells: Sequence[Planned]) -> Sweep:
        write_json(folder / "plan.json", [dataclasses.asdict(c) for c in cells])
        return cls(folder)

    def plan(self) -> list[Planned]:
        assert self.folder is not None
        return [Planned(**c) for c in json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))]

    def put(self, n: int, outcome: Outcome) -> None:
        self._known[n] = outcome
        if self.folder:
            write_json(self.folder / f"cell-{n:05d}.json", dataclasses.asdict(outcome))

    def get(self, n: int) -> Outcome | None:
        if n not in self._known and self.folder:
            with contextlib.suppress(FileNotFoundError):
                data = json.loads((self.folder / f"cell-{n:05d}.json").read_text(encoding="utf-8"))
                self._known[n] = Outcome(data["records"], [Failure(**f) for f in data["failures"]])
        return self._known.get(n)

    def attempt(self, n: int, what: str = "attempts") -> int:
        """Count one more process starting on cell n (called under its claim). Returns how many started before it."""
        if not self.folder:
            return 0
        path = self.folder / f"{what}-{n:05d}"
        before = path.stat().st_size if path.exists() else 0
        with open(path, "ab") as f:
            f.write(b".")
        return before

    def remove(self) -> None:
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


class Labs:
    """One laboratory (store, sandbox, loaded model) at a time, shared by the cells that agree on its settings."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._key = ""
        self._lab: Any = None

    def get(self, config: dict[str, Any]) -> Any:
        from s0.experiment.cell import Lab

        key = digest([config["store"], config["sandbox"]])
        if key != self._key:
            self.close()
            self._lab = self._stack.enter_context(Lab(Store(config["store"]), config["sandbox"]))
            self._key = key
        return self._lab

    def close(self) -> None:
        self._key, self._lab = "", None
        self._stack.close()

    def __enter__(self) -> Labs:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def claim_name(config: dict[str, Any], seed: int) -> str:
    """Claim under which one seed of a cell is computed."""
    return f"cell-{config_hash(config)}-{seed}"


@contextlib.contextmanager
def claimed(config: dict[str, Any], seeds: Sequence[int], wait: bool) -> Iterator[list[int]]:
    """Hold the claims of those seeds that are free (wait=False; none if the first is taken), or of all (wait=True)."""
    store = Store(config["store"])
    with contextlib.ExitStack() as held:
        mine = []
        for seed in sorted(seeds):  # one order for everybody: two waiting processes cannot wait for each other
            if held.enter_context(store.claim(claim_name(config, seed), wait=wait)):
                mine.append(seed)
            elif not mine:
                break
        yield [s for s in seeds if s in mine]


def work(cells: Sequence[Planned], sweep: Sweep, only: Sequence[int] | None = None, max_attempts: int = 0) -> None:
    """Run the cells (those at positions `only`, or all) that have no outcome yet; see the module docstring.

    With max_attempts > 0 a cell that took that many processes down with it is a failure instead of being tried again.
    """
    from s0.sweep.joint import groups

    _many_files()
    numbers = list(range(len(cells)) if only is None else only)
    left = {n: list(cells[n].config["seed"]) for n in numbers}
    so_far = {n: Outcome() for n in numbers}
    spent: dict[int, dict[str, float]] = {}

    def unfinished(some: Iterable[int]) -> list[int]:
        return [n for n in some if left[n] and not sweep.get(n)]

    def prepare(group: list[int]) -> None:
        """Train those cells together that nobody else holds, once."""
        with contextlib.ExitStack() as claims:
            mine: dict[int, list[int]] = {}
            for n in unfinished(group):
                if n not in spent and (s := claims.enter_context(claimed(cells[n].config, left[n], wait=False))):
                    mine[n] = s
            if len(mine) > 1:
                # what took processes down together is left to the cells themselves, and to their count of attempts
                apart = max_attempts > 0 and sweep.attempt(min(mine), "together") >= TOGETHER_ATTEMPTS
                configs = [{**cells[n].config, "seed": s} for n, s in mine.items()]
                spent.update(zip(mine, [{} for _ in mine] if apart else train_together(configs, labs), strict=True))

    def take(n: int) -> bool:
        """Run those seeds of cell n that nobody else holds. Returns whether there were any."""
        cell = cells[n]
        with claimed(cell.config, left[n], wait=False) as seeds:
            if not seeds or sweep.get(n):
                return False
            if len(cells) > 1:
                print(f"[{n + 1}/{len(cells)}] {cell.label()}", flush=True)
            if max_attempts and sweep.attempt(n) >= max_attempts:
                message = f"{max_attempts} processes died while running it (killed: out of memory?)"
                part = Outcome(failures=[_failure(cell, seeds, message, S0Error.exit_code)])
            else:
                part = run_seeds(cell, seeds, labs, spent.get(n))
                spent[n] = {}
            so_far[n] += part
            left[n] = [s for s in left[n] if s not in seeds]
            if not left[n]:
                sweep.put(n, so_far[n])
            return True

    processes = min(len(numbers), cells[numbers[0]].config["workers"]) if numbers else 0
    queue = groups(cells, numbers, max(1, processes))
    with Labs() as labs:
        while unfinished(numbers):
            taken = False
            for group in queue:
                if len(unfinished(group)) > 1:
                    prepare(group)
                for n in unfinished(group):
                    taken |= take(n)
            if not taken and (held := unfinished(numbers)):
                with claimed(cells[held[0]].config, left[held[0]], wait=True):
                    pass  # it is done now, or its process died: then the next round takes over all that one held


def train_together(configs: list[dict[str, Any]], labs: Labs) -> list[dict[str, float]]:
    """`s0.sweep.joint.train_ahead`, or nothing where that fails: then every cell trains by itself, and says what is wrong."""
    from s0.sweep.joint import train_ahead

    try:
        set_threads(configs[0])
        return train_ahead(configs, labs.get(configs[0]))
    except Exception as error:
        message = _words(error)
    _free_memory()  # outside the except block: the traceback held the tensors of the run that failed
    print(f"  training {len(configs)} cells together failed ({message}); each trains by itself", flush=True)
    return [{} for _ in configs]


def run_seeds(cell: Planned, seeds: list[int], labs: Labs, spent: dict[str, float] | None = None) -> Outcome:
    """Records of one cell for `seeds`. When running them together fails they are run one by one, so that one bad seed
    does not cost the others; what still fails is kept as a record with status "failed"."""
    from s0.experiment.cell import run_cell

    failure: Outcome | None = None
    try:
        set_threads(cell.config)
        lab = labs.get(cell.config)
        records = run_cell({**cell.config, "seed": seeds}, lab, cell.command, spent)
    except Exception as error:
        if len(seeds) == 1 or isinstance(error, WHOLE_CELL):
            failure = Outcome(failures=_merged(cell, [_failed(cell, s, error, n == 0) for n, s in enumerate(seeds)]))
    else:
        return _finished(cell, seeds, lab, records)
    _free_memory()  # outside the except block: the traceback held the tensors of the run that failed
    if failure is not None:
        return failure
    parts = [run_seeds(cell, [s], labs) for s in seeds]
    return Outcome([r for p in parts for r in p.records], _merged(cell, [f for p in parts for f in p.failures]))


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _finished(cell: Planned, seeds: list[int], lab: Any, records: list[Any]) -> Outcome:
    outcome = Outcome([str(record_path(cell.config, r)) for r in records])
    for r in records:
        failed_path(cell.config, r.seed).unlink(missing_ok=True)
    try:
        _after(cell.config, lab, records)
    except Exception as error:
        if not isinstance(error, S0Error):
            traceback.print_exception(error)
        outcome.failures.append(_failure(cell, seeds, _words(error), getattr(error, "exit_code", S0Error.exit_code)))
    return outcome


def _after(config: dict[str, Any], lab: Any, records: list[Any]) -> None:
    """What happens to records besides being kept: the preset's analysis, tracking, and the check of a debugging run."""
    if config["analysis"]:
        from s0.analysis.run import analyse

        analyse(config, lab, records)
    if config["tracking"]["name"] != "none":
        from s0.tracking.wandb import track

        track(config["tracking"], records)
    if config["debug"]["overfit"]:
        from s0.runtime.profiling import check_overfit

        check_overfit(records)


def _failed(cell: Planned, seed: int, error: Exception, show: bool) -> Failure:
    """Note a failed seed as a record. A bug's traceback goes to stderr; an expected error is one line at the end."""
    message = _words(error)
    if show and not isinstance(error, S0Error):
        traceback.print_exception(error)
    try:
        write_failed(cell, seed, message)
    except S0Error as second:
        message += f" (and the failure could not be recorded: {second})"
    return _failure(cell, [seed], message, getattr(error, "exit_code", S0Error.exit_code))


def _words(error: Exception) -> str:
    """The error as one line."""
    return " ".join((str(error) if isinstance(error, S0Error) else f"{type(error).__name__}: {error}").split())


def _failure(cell: Planned, seeds: list[int], message: str, exit_code: int) -> Failure:
    return Failure(cell.label(), seeds, message, exit_code, cell.rerun(seeds))


def _merged(cell: Planned, failures: list[Failure]) -> list[Failure]:
    """Seeds that failed with the same words are one failure."""
    seeds: dict[tuple[str, int], list[int]] = {}
    for f in failures:
        seeds.setdefault((f.message, f.exit_code), []).extend(f.seeds)
    return [_failure(cell, some, message, code) for (message, code), some in seeds.items()]


# -- records of a cell ---------------------------------------------------------------------------------------------------


def record_path(config: dict[str, Any], record: Any) -> Path:
    from s0.storage.records import record_stem

    return Path(config["records"]) / f"{record_stem(record)}.json"


def failed_path(config: dict[str, Any], seed: int) -> Path:
    """Where a failed seed is noted: one fixed name per config and seed, so that a later success can remove it."""
    name = config["model"]["name"] or Path(str(config["model"]["path"])).name
    stem = f"{name}__{config['task']['name']}__{config['method']['name']}__seed{seed}__failed-{config_hash(config)}"
    return Path(config["records"]) / f"{stem}.json"


def write_failed(cell: Planned, seed: int, message: str) -> None:
    """Write the record of a failed seed. Raises StoreError when even that is impossible."""
    from s0.runtime.environment import git_state
    from s0.storage.records import Record, TrainingSummary

    config = cell.config
    path = failed_path(config, seed)
    record = Record(
        key=path.stem.rpartition("__")[2],
        status="failed",
        experiment=config["experiment"],
        model=path.stem.split("__")[0],
        task=config["task"]["name"],
        method=config["method"]["name"],
        seed=seed,
        alpha=None,
        error=message,
        config={**config, "seed": seed},
        config_hash=config_hash(config),
        model_info={"name": path.stem.split("__")[0], "path": str(config["model"]["path"])},
        task_info={"name": config["task"]["name"]},
        method_info={"label": config["method"]["name"], "trainable_params": 0, "inference_cost": ""},
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


def _many_files() -> None:
    """A cell holds one claim per log it writes; the usual soft limit of 1024 open files is for other programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))


def set_threads(config: dict[str, Any]) -> None:
    """Torch's CPU threads: as configured, else this worker's share, else the cores this process may use."""
    import torch

    share = int(os.environ.get("S0_THREADS", 0))
    torch.set_num_threads(config["engine"]["threads"] or share or len(os.sched_getaffinity(0)))


def show_failures(failures: Sequence[Failure]) -> None:
    """One line per failure, and how to run it again."""
    for f in failures:
        seeds = ",".join(map(str, f.seeds))
        print(f"failed: {f.label} / seed {seeds}: {f.message}; rerun: {f.command}", file=sys.stderr)
