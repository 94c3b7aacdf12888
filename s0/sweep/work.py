"""Many cells, worked through by one or more processes: none twice, a failing one does not stop the others.

A process takes a cell by claiming its seeds (operating-system locks in the store, free again when a process dies), runs
it, and notes the outcome. Cells that can train in one batch are taken together for that (s0.sweep.joint) and then run one by
one. What somebody else holds is waited for when nothing else is left, and taken over from a process that died. Only the
outcomes are kept here; results are records, found again by key.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from s0.config.schema import Config
from s0.errors import ArchitectureError, ConfigError, S0Error, SandboxError
from s0.experiment.resources import ResourceCache
from s0.runtime.process import free_memory, raise_file_limit, set_threads
from s0.sweep.after import after_cell
from s0.sweep.failures import failed_path, failure_of, merge_failures, note_failed, one_line, record_path
from s0.sweep.ledger import CellOutcome, Sweep, claimed
from s0.sweep.plan import Planned

#: errors that no choice of seeds can avoid: the seeds are not tried one by one
WHOLE_CELL = (ArchitectureError, ConfigError, SandboxError)
#: cells that took so many processes down while they trained together are run one by one
JOINT_ATTEMPTS = 2


def work(cells: Sequence[Planned], sweep: Sweep, only: Sequence[int] | None = None, max_attempts: int = 0) -> None:
    """Run the cells (those at positions `only`, or all) that have no outcome yet; see the module docstring.

    With max_attempts > 0 a cell that took that many processes down with it is a failure instead of being tried again.
    """
    # start-up: torch
    from s0.sweep.joint import groups

    raise_file_limit()
    numbers = list(range(len(cells)) if only is None else only)
    left = {n: list(cells[n].config.seed) for n in numbers}
    so_far = {n: CellOutcome() for n in numbers}
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
                apart = max_attempts > 0 and sweep.attempt(min(mine), "together") >= JOINT_ATTEMPTS
                configs = [replace(cells[n].config, seed=s) for n, s in mine.items()]
                spent.update(zip(mine, [{} for _ in mine] if apart else train_jointly(configs, labs), strict=True))

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
                part = CellOutcome(failures=[failure_of(cell, seeds, message, S0Error.exit_code)])
            else:
                part = run_seeds(cell, seeds, labs, spent.get(n))
                spent[n] = {}
            so_far[n] += part
            left[n] = [s for s in left[n] if s not in seeds]
            if not left[n]:
                sweep.put(n, so_far[n])
            return True

    processes = min(len(numbers), cells[numbers[0]].config.workers) if numbers else 0
    queue = groups(cells, numbers, max(1, processes))
    with ResourceCache() as labs:
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


def train_jointly(configs: list[Config], labs: ResourceCache) -> list[dict[str, float]]:
    """`s0.sweep.joint.train_ahead`, or nothing where that fails: then every cell trains by itself, and says what is wrong."""
    # start-up: torch
    from s0.sweep.joint import train_ahead

    try:
        set_threads(configs[0].engine.threads)
        return train_ahead(configs, labs.get(configs[0]))
    except Exception as error:
        message = one_line(error)
    free_memory()  # outside the except block: the traceback held the tensors of the run that failed
    print(f"  training {len(configs)} cells together failed ({message}); each trains by itself", flush=True)
    return [{} for _ in configs]


def run_seeds(
    cell: Planned, seeds: list[int], labs: ResourceCache, spent: dict[str, float] | None = None
) -> CellOutcome:
    """Records of one cell for `seeds`. When running them together fails they are run one by one, so that one bad seed
    does not cost the others; what still fails is kept as a record with status "failed"."""
    # start-up: torch
    from s0.experiment.run import run_cell

    failure: CellOutcome | None = None
    try:
        set_threads(cell.config.engine.threads)
        resources = labs.get(cell.config)
        records = run_cell(replace(cell.config, seed=seeds), resources, cell.command, spent)
    except Exception as error:
        if len(seeds) == 1 or isinstance(error, WHOLE_CELL):
            failure = CellOutcome(
                failures=merge_failures(cell, [note_failed(cell, s, error, n == 0) for n, s in enumerate(seeds)])
            )
    else:
        return _finished(cell, seeds, resources, records)
    free_memory()  # outside the except block: the traceback held the tensors of the run that failed
    if failure is not None:
        return failure
    parts = [run_seeds(cell, [s], labs) for s in seeds]
    return CellOutcome(
        [r for p in parts for r in p.records], merge_failures(cell, [f for p in parts for f in p.failures])
    )


def _finished(cell: Planned, seeds: list[int], resources: Any, records: list[Any]) -> CellOutcome:
    outcome = CellOutcome([str(record_path(cell.config, r)) for r in records])
    for r in records:
        failed_path(cell.config, r.seed).unlink(missing_ok=True)
    try:
        after_cell(cell.config, resources, records)
    except Exception as error:
        if not isinstance(error, S0Error):
            traceback.print_exception(error)
        outcome.failures.append(
            failure_of(cell, seeds, one_line(error), getattr(error, "exit_code", S0Error.exit_code))
        )
    return outcome


# -- records of a cell ---------------------------------------------------------------------------------------------------
