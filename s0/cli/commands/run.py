"""The command line behind run.py and `s0 run`: plan with Hydra, run every cell, keep going, say at the end what happened.

Nothing heavy is imported before the whole plan is known to be good.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from s0.cli.compose import CONFIGS, make_plan, parse_args
from s0.cli.dispatch import version
from s0.cli.errors import error_line
from s0.cli.help import help_text
from s0.cli.tune import check_objective, hydra_main, objective, search
from s0.config.registry import find, load
from s0.config.schema import Config
from s0.errors import ConfigError, DataError, Diverged, JobsFailed, NoTrainingSolutions, S0Error
from s0.runtime.profiling import profiled
from s0.storage.files import write_text
from s0.storage.records import Record, read_record
from s0.sweep.failures import Failure, show_failures
from s0.sweep.ledger import CellOutcome, Sweep
from s0.sweep.plan import Plan, Planned
from s0.sweep.status import print_plan
from s0.sweep.work import work
from s0.sweep.workers import run_pool

#: free disk space a run needs at least, in bytes
ROOM = 64 << 20


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C."""


def main(argv: list[str] | None = None, program: str = "python run.py") -> int:
    """Run and return the exit code. Expected errors are one line on stderr; tracebacks are bugs.

    `program` is how the user runs a cell: it stands before the overrides of every command that is shown or recorded.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # waiting threads must not spin: beside sandbox workers or other jobs they slow the run down a hundredfold
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    signal.signal(signal.SIGTERM, _terminate)
    # our launcher files carry the plugins' names on purpose: the plugins' schemas then check their keys
    warnings.filterwarnings("ignore", message=r"(?s).*validated against ConfigStore schema")
    # peft asks transformers by the old name
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    try:
        words = sys.argv[1:] if argv is None else argv
        if study := next((w.removeprefix("study=") for w in words if w.startswith("study=")), ""):
            return int(load(find("study", study).target)(words, program))
        args = parse_args(words)
        if args.version:
            print(version())
            return 0
        if args.help:
            print(help_text(CONFIGS, program), end="")
            return 0
        if args.hydra_help or args.shell_completion or args.info or args.cfg:
            return _hydra_says(args.argv)
        if args.config_path or args.config_name or args.experimental_rerun:
            raise ConfigError(
                "-cp, -cn and --experimental-rerun: not supported; add a folder of configs with -cd FOLDER"
            )
        return run_plan(make_plan(args, program=program))
    except KeyboardInterrupt as stop:
        print("\ninterrupted: finished work is kept; run the same command again to go on", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    except S0Error as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _terminate(*_: Any) -> None:
    raise Terminated


def _hydra_says(argv: list[str]) -> int:
    """Hydra's own answers: --cfg, --info, --hydra-help, shell completion."""
    try:
        hydra_main(lambda cfg: None, argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    except S0Error:
        raise
    except Exception as error:
        raise ConfigError(error_line(error, CONFIGS) or str(error).splitlines()[0]) from error
    return 0


def run_plan(plan: Plan) -> int:
    """Run all cells where the plan says (here, workers of this machine, a cluster); print the end. Returns the exit code."""
    start, begun = time.monotonic(), time.time()
    first = plan.cells[0].config
    check_folders(first)
    if first.dry_run:
        print_plan(plan.cells)
        return 0
    if first.workers and plan.launcher != "basic":
        raise ConfigError(f"workers={first.workers}: only without hydra/launcher={plan.launcher}; drop one of them")
    if plan.launcher == "optuna":
        return run_search(plan, start, begun)
    lost = ""
    if plan.launcher != "basic":
        sweep = Sweep.create(_folder(first), plan.cells)
        lost = _launch(plan, sweep)
    elif first.workers:
        sweep = Sweep.create(_folder(first), plan.cells)
        lost = run_pool(plan.cells, sweep, first.workers)
    else:
        sweep = Sweep()
        with profiled(first.debug.profile, Path(first.out)):
            work(plan.cells, sweep)
    known = [sweep.get(n) for n in range(len(plan.cells))]
    if all(known) or plan.launcher == "basic":
        sweep.remove()  # cluster jobs that still run or wait go on using it
    outcomes = [o or _lost(plan, n, lost) for n, o in enumerate(known)]
    return finish(plan, outcomes, Path(first.out), time.monotonic() - start, begun)


def run_search(plan: Plan, start: float, begun: float) -> int:
    """Run the trials Optuna proposes; the end says which did best by validation. Returns the exit code."""
    cells: list[Planned] = []
    outcomes: list[CellOutcome] = []
    scores: list[float] = []
    out = Path(plan.cells[0].config.out)

    def trial(overrides: list[str]) -> float:
        (cell,) = make_plan(parse_args(overrides), program=plan.cells[0].program).cells
        check_objective(cell.config)
        print(f"[trial {len(cells) + 1}] {' '.join(overrides)}", flush=True)
        sweep = Sweep()
        work([cell], sweep)
        outcome = sweep.get(0)
        assert outcome is not None
        cells.append(cell)
        outcomes.append(outcome)
        if outcome.failures:
            raise S0Error(outcome.failures[0].message)
        scores.append(objective([read_record(Path(p)) for p in outcome.records]))
        print(f"  validation score {scores[-1]:.4f} (best so far {max(scores):.4f})", flush=True)
        return scores[-1]

    try:
        search(trial, plan.argv)
    except S0Error as error:
        if not any(o.failures for o in outcomes):
            outcomes.append(CellOutcome(failures=[_search_failure(plan, error)]))
    except Exception as error:
        line = " ".join((error_line(error, CONFIGS) or f"{type(error).__name__}: {error}").split())[:500]
        outcomes.append(CellOutcome(failures=[_search_failure(plan, S0Error(line))]))
    code = finish(replace(plan, cells=cells or plan.cells), outcomes, out, time.monotonic() - start, begun)
    if scores:
        best = max(range(len(scores)), key=scores.__getitem__)
        print(
            f"best of {len(scores)} trials by cross-validation on training problems: {scores[best]:.4f}; held-out figures above "
            f"chose nothing; alone: {cells[best].command}"
        )
    return code


def _search_failure(plan: Plan, error: S0Error) -> Failure:
    cell = plan.cells[0]
    return Failure(cell.label(), cell.config.seed, str(error), error.exit_code, cell.command)


def _folder(config: Config) -> Path:
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"
    return Path(config.store).resolve() / "sweeps" / name


def _lost(plan: Plan, n: int, why: str) -> CellOutcome:
    cell = plan.cells[n]
    what = "its process died" if plan.launcher == "basic" else "its job failed, was cancelled, or still waits or runs"
    message = f"no result: {what}{f' ({why})' if why else ''}"
    return CellOutcome(failures=[Failure(cell.label(), cell.config.seed, message, S0Error.exit_code, cell.command)])


def _launch(plan: Plan, sweep: Sweep) -> str:
    """Hand the jobs to the chosen Hydra launcher and wait. Returns why jobs were lost, "" if the launcher is content."""
    task = remote_job(str(sweep.folder), os.getcwd())
    try:
        hydra_main(task, plan.argv)
    except Exception as error:
        return " ".join((error_line(error, CONFIGS) or f"{type(error).__name__}: {error}").split())[:500]
    return ""


def remote_job(folder: str, home: str) -> Callable[[Any], None]:
    """The function a launcher runs elsewhere, once per job. It carries all it needs: pickled, it forgets this module."""

    def job(cfg: Any) -> None:
        import os
        from pathlib import Path

        from hydra.core.hydra_config import HydraConfig

        # start-up: none; the function is pickled, and its module's globals stay behind
        from s0.sweep.ledger import Sweep

        # start-up: as above
        from s0.sweep.work import work

        if os.path.isdir(home):
            os.chdir(home)  # relative store and record folders mean the same everywhere
        overrides = sorted(HydraConfig.get().overrides.task)
        sweep = Sweep(Path(folder))
        try:
            cells = sweep.plan()
        except FileNotFoundError:  # a job requeued after all its work was done
            print(f"{folder}: this sweep is over", flush=True)
            return
        work(cells, sweep, [n for n, c in enumerate(cells) if sorted(c.overrides) == overrides])

    return job


def finish(plan: Plan, outcomes: Sequence[CellOutcome], out: Path, seconds: float, begun: float = 0.0) -> int:
    """Print and write the summary of all records, list all failures. `begun`: time of day when the run began (records
    older than that were reused). Returns the exit code."""
    paths = [Path(p) for p in dict.fromkeys(p for o in outcomes for p in o.records)]
    records = [read_record(p) for p in paths]
    failures = [f for o in outcomes for f in o.failures]
    if records:
        print()
        print(closing(paths, records, out, plan.cells[0].program, begun), flush=True)
        print(f"{seconds:.0f} s", flush=True)
    show_failures(failures)
    if failures:
        print(f"{len(failures)} failure(s) in {len(plan.cells)} cell(s); finished records are kept", file=sys.stderr)
        return JobsFailed.exit_code if len(plan.cells) > 1 or records else failures[0].exit_code
    empty = [r for r in records if r.status == "no_solutions"]
    for r in empty:
        print(
            f"no training solution: {r.model} / {r.task} / seed {r.seed}: {r.error}; sample more "
            "(task.samples_per_problem, task.temperature) or use a stronger model",
            file=sys.stderr,
        )
    wild = [r for r in records if diverged(r.training.losses)]
    for r in wild:
        losses = r.training.losses
        print(
            f"diverged: {r.model} / {r.task} / {r.method} / seed {r.seed}: loss {losses[0]:.4g} -> {losses[-1]:.4g} in "
            f"{len(losses)} steps; lower method.lr",
            file=sys.stderr,
        )
    return Diverged.exit_code if wild else NoTrainingSolutions.exit_code if empty else 0


def diverged(losses: Sequence[float]) -> bool:
    """Whether training ended far above where it began: more than tenfold and a nat, or at no number at all."""
    return bool(losses) and not losses[-1] <= 10 * losses[0] + 1


def check_folders(config: Config) -> None:
    """Raise ConfigError for a folder that cannot be written or has no room, before any work is spent."""
    for key in ("store", "records", "out"):
        path = Path(getattr(config, key)).expanduser().absolute()
        there = next(p for p in (path, *path.parents) if p.exists())
        if not there.is_dir():
            raise ConfigError(f"{key}={path}: {there} is a file; give a folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ConfigError(f"{key}={path}: {there} cannot be written; give a writable folder ({key}=DIR)")
        if (free := shutil.disk_usage(there).free) < ROOM:
            raise ConfigError(
                f"{key}={path}: {free / 2**20:.0f} MiB free, {ROOM >> 20} MiB are needed at least; free some"
            )


def closing(paths: Sequence[Path], records: Sequence[Record], out: Path, program: str, begun: float) -> str:
    """Write summary, page and `screen.txt` (for README: 80 columns) into `out`; the text a run ends with."""
    # start-up: scipy, matplotlib, torch
    from s0.export.files import adapter_folder

    # start-up: as above
    from s0.report import screen, write_summary

    # start-up: as above
    from s0.report.html import write_report

    write_summary(records, out)
    write_text(out / "screen.txt", screen.results(records, 80))
    report = write_report(paths, out / "report.html")
    learned = None
    for path, record in zip(paths, records, strict=True):
        if record.status == "ok" and record.method == "s0":
            with contextlib.suppress(DataError):  # the store may be gone
                learned = path, adapter_folder(record)
            break
    reused = sum(p.stat().st_mtime < begun for p in paths)
    width = shutil.get_terminal_size((80, 24)).columns
    return f"{screen.results(records, width)}\n\n{screen.whereabouts(records, reused, out, report, learned, program)}"
