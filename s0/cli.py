"""The command line behind run.py: compose with Hydra, validate, run every cell, keep going, say at the end what happened.

Nothing heavy is imported before the config is known to be good.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from s0 import config as schema
from s0.cliparse import expand_cells, hydra_error_line
from s0.errors import ConfigError, JobsFailed, NoTrainingSolutions, S0Error

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def main(argv: list[str] | None = None) -> int:
    """Run and return the exit code. Expected errors are one line on stderr; tracebacks are bugs."""
    args = sys.argv[1:] if argv is None else argv
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach us; they are shown as one line below
    status: list[int] = []
    try:
        _hydra(args, status)
    except KeyboardInterrupt:
        print("\ninterrupted: finished work is kept; run the same command again to go on", file=sys.stderr)
        return 130
    except S0Error as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        line = hydra_error_line(error, CONFIGS)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return ConfigError.exit_code
    return max(status, default=0)


def _hydra(args: list[str], status: list[int]) -> None:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, OmegaConf

    schema.register()

    @hydra.main(config_path=str(CONFIGS), config_name="config", version_base="1.3")
    def job(cfg: DictConfig) -> int:
        overrides = list(HydraConfig.get().overrides.task)
        code = run_job(OmegaConf.to_container(cfg, resolve=False), overrides)  # type: ignore[arg-type]
        status.append(code)
        return code

    saved = sys.argv
    sys.argv = [saved[0], *args]
    try:
        job()
    finally:
        sys.argv = saved


def run_job(cfg: dict[str, Any], overrides: list[str]) -> int:
    """All cells of one composed config. Returns the exit code; a failing cell does not stop the others."""
    start = time.monotonic()
    cells = [schema.resolve(c) for c in expand_cells(cfg, overrides, CONFIGS)]
    command = "python run.py " + shlex.join(overrides)
    if cells[0]["dry_run"]:
        from s0.plan import print_plan

        print_plan(cells)
        return 0
    _threads(cells[0]["engine"]["threads"])
    from s0.pipeline import Lab, run_cell
    from s0.records import Record
    from s0.store import Store

    records: list[Record] = []
    failures: list[tuple[dict[str, Any], str]] = []
    with Lab(Store(cells[0]["store"]), cells[0]["sandbox"]) as lab:
        for n, config in enumerate(cells):
            if len(cells) > 1:
                print(f"cell {n + 1}/{len(cells)}", flush=True)
            try:
                done = run_cell(config, lab, command)
                records += done
                _track(config, done)
            except (KeyboardInterrupt, ConfigError):
                raise
            except S0Error as error:
                failures.append((config, str(error)))
            except Exception as error:
                traceback.print_exc()
                failures.append((config, f"{type(error).__name__}: {error}"))
    if records:
        finish(records, Path(cells[0]["out"]), time.monotonic() - start)
    for config, message in failures:
        print(
            f"failed: {config['model']['name'] or config['model']['path']} / {config['task']['name']} / "
            f"{config['method']['name']}: {message}\n  run the same command again after fixing it: {command}",
            file=sys.stderr,
        )
    if failures:
        return JobsFailed.exit_code if len(cells) > 1 else S0Error.exit_code
    empty = [r for r in records if r.status == "no_solutions"]
    for r in empty:
        print(
            f"no training solution: {r.model} / {r.task} / seed {r.seed}: {r.error}; sample more "
            "(task.samples_per_problem, task.temperature) or use a stronger model",
            file=sys.stderr,
        )
    return NoTrainingSolutions.exit_code if empty else 0


def finish(records: list[Any], out: Path, seconds: float) -> None:
    """Print the summary table and write it, with one figure, to `out`."""
    from s0.report import summary_table, write_summary

    print()
    print(summary_table(records))
    paths = write_summary(records, out)
    print(f"\n{len(records)} record(s); written: {', '.join(str(p) for p in paths)}; {seconds:.0f} s", flush=True)


def _track(config: dict[str, Any], records: list[Any]) -> None:
    if config["tracking"]["name"] != "none":
        from s0.tracking import track

        track(config["tracking"], records)


def _threads(n: int | None) -> None:
    import torch

    torch.set_num_threads(n or os.cpu_count() or 1)
