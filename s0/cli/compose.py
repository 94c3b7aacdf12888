"""From a command line to the cells it asks for, checked in full before anything starts.

arguments -> jobs (one per combination of a sweep) -> cells (one model, task and method; a preset has several)
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from s0.cli.errors import error_line, groups, unknown_option
from s0.cli.hydra_settings import check_hydra, is_hydra, output_folder
from s0.cli.tune import check_objective, check_search, preset
from s0.cli.tune import wanted as tune_wanted
from s0.config.registry import find, register
from s0.config.resolve import resolve
from s0.config.schema import Config
from s0.errors import ConfigError, DataError
from s0.experiment.checkpoint import resolve_path
from s0.paths import CONFIGS
from s0.runtime.extras import install_line
from s0.sweep.plan import Plan, Planned, key_of
from s0.tiny.standins import TINY


class _Parser(argparse.ArgumentParser):
    """Hydra's own parser with errors of one line."""

    def error(self, message: str) -> NoReturn:
        options = sorted(o for a in self._actions for o in a.option_strings if o.startswith("--"))
        unknown = message.partition("unrecognized arguments: ")[2].split()
        if unknown:
            raise ConfigError(unknown_option(unknown[0], options))
        raise ConfigError(f"{message}; options: {', '.join(options)}")


VERSION = frozenset(["--version", "-V"])


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Hydra's options and overrides, and --dry-run for dry_run=true. Raises ConfigError."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.__class__ = _Parser
    parser.add_argument("--dry-run", action="store_true", help="Print what would run, and what is stored already")
    argv = ["dry_run=true" if a == "--dry-run" else a for a in argv]
    args = parser.parse_args([a for a in argv if a not in VERSION])  # the parser's own prints Hydra's
    args.version = not VERSION.isdisjoint(argv)
    args.argv = argv
    return args


@contextlib.contextmanager
def _hydra(configs: Path) -> Iterator[Any]:
    """Hydra's global state set up for composition, and put back afterwards (a job composes inside a running Hydra)."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    state = GlobalHydra.instance()
    saved = state.hydra
    state.clear()
    try:
        with initialize_config_dir(str(configs), version_base="1.3", job_name="run"):
            yield GlobalHydra.instance().config_loader()
    finally:
        state.hydra = saved


def make_plan(args: argparse.Namespace, configs: Path = CONFIGS, program: str = "python run.py") -> Plan:
    """Every job and cell of a command line, composed, checked and resolved. Loads, downloads and starts nothing.

    `program` stands before the overrides in the command that runs a cell alone.

    Raises ConfigError with one line for anything wrong in any of them.
    """
    register()
    overrides = list(args.overrides)
    if args.config_dir:
        folder = Path(args.config_dir).expanduser().resolve()
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {args.config_dir}: no such folder; give a folder with config groups in it")
        overrides.append(f"hydra.searchpath=[file://{folder}]")
    multirun = args.multirun or "hydra.mode=MULTIRUN" in overrides
    try:
        with _hydra(configs) as loader:
            check_hydra(overrides, multirun)
            places = output_folder(loader, overrides, multirun)
            overrides += places
            jobs, launcher = _jobs(loader, overrides, multirun)
            cells: list[Planned] = []
            mine = [
                o for o in overrides if is_hydra(o) and not key_of(o).startswith(("hydra/sweeper", "hydra.sweeper"))
            ]
            for job in jobs:
                for planned in _cells(job, mine, configs):
                    if all(planned.config != c.config for c in cells):
                        cells.append(planned)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            error_line(error, configs) or f"{type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    for planned in cells:
        check_rest(planned.config)
        if launcher == "optuna":
            check_objective(planned.config)
    if launcher == "optuna" and len(cells) > 1:
        raise ConfigError("hydra/sweeper=optuna: a preset has several cells; search one: model=... task=... method=...")
    argv = _with(args.argv, [*places, *(preset(overrides) if launcher == "optuna" else [])])
    return Plan([replace(c, program=program) for c in _noted(cells)], argv, launcher)


def _noted(cells: list[Planned]) -> list[Planned]:
    """Each cell with the overrides that not all cells share, in its label."""
    shared = set(cells[0].own).intersection(*(c.own for c in cells))
    named = {"model", "task", "method", "seed"}
    return [
        replace(c, note="".join(f" {o}" for o in c.own if o not in shared and key_of(o) not in named)) for c in cells
    ]


def _with(argv: list[str], more: list[str]) -> list[str]:
    """The command line with overrides added behind its first one (Hydra takes them in one row)."""
    first = next((n for n, a in enumerate(argv) if "=" in a and not a.startswith("-")), len(argv) - 1)
    return [*argv[: first + 1], *more, *argv[first + 1 :]] if more else argv


def _jobs(loader: Any, overrides: list[str], multirun: bool) -> tuple[list[list[str]], str]:
    """Override lists of the jobs (the product of all sweeps, `glob(...)` included), and the launcher's name."""
    if not multirun:
        return [[o for o in overrides if not is_hydra(o)]], "basic"
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.types import RunMode

    if tune_wanted(overrides):
        mine = [o for o in overrides if not is_hydra(o)]
        parser = OverridesParser.create(config_loader=loader)
        fixed = [o for o in mine if not parser.parse_overrides([o])[0].is_sweep_override()]
        launched = any(key_of(o).startswith(("hydra/launcher", "hydra.launcher")) for o in overrides)
        check_search(
            [*mine, *(o for o in overrides if is_hydra(o))], [*fixed, *(o for o in overrides if is_hydra(o))], launched
        )
        return [fixed], "optuna"
    for o in overrides:
        if "interval(" in o.partition("=")[2]:
            raise ConfigError(
                f"{o}: a range has to be searched: add hydra/sweeper=optuna ({install_line('optuna')}), or list values: "
                f"{key_of(o)}=A,B,C"
            )
    cfg = loader.load_configuration("config", overrides, run_mode=RunMode.MULTIRUN)
    if not str(cfg.hydra.sweeper._target_).endswith("BasicSweeper"):
        raise ConfigError("hydra/sweeper: choices: basic (leave it out), optuna (a search by validation score)")
    params = [f"{k}={v}" for k, v in (cfg.hydra.sweeper.params or {}).items()]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides([*params, *cfg.hydra.overrides.task])
    jobs = [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
    if not jobs:
        raise ConfigError(f"-m {shlex.join(overrides)}: no job: a glob(...) matched nothing; see python run.py --help")
    target = str(cfg.hydra.launcher._target_)
    if target.endswith("BasicLauncher"):
        return jobs, "basic"
    name = str(cfg.hydra.runtime.choices["hydra/launcher"])
    if not _importable(target.rpartition(".")[0]):
        extra = {"submitit": "slurm", "ray": "ray"}.get(name.partition("_")[0])
        way = install_line(extra) if extra else "install the package that brings it"
        raise ConfigError(f"hydra/launcher={name}: {target} is not installed; {way}")
    return jobs, name


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _cells(job: list[str], hydra_overrides: list[str], configs: Path) -> list[Planned]:
    """The cells of one job: itself, or for a preset each entry of `cells` composed with it. Precedence: the preset's
    cell, then the command line."""
    from hydra import compose

    search = [o for o in hydra_overrides if key_of(o) == "hydra.searchpath"]
    whole = compose("config", overrides=[*job, *hydra_overrides])
    scale, entries = whole.get("scale", "paper"), list(whole.get("cells") or [])
    held = [o for o in job if key_of(o) != "cells"]
    if scale == "tiny" and whole.get("tiny_cells") and len(held) == len(job):
        entries = list(whole.tiny_cells)
    if not entries and scale != "tiny":
        return [Planned(resolved(whole), job, job, job)]
    user_keys = {key_of(o) for o in held}
    out: list[Planned] = []
    for entry in entries or [""]:
        words = shlex.split(str(entry), posix=False)  # quotes belong to Hydra's grammar
        mine = [o for o in (shrink(o, scale) for o in words) if key_of(o) not in user_keys]
        own = [*mine, *(shrink(o, scale) for o in held)]
        composed = compose("config", overrides=[*own, *search])
        composed.cells, composed.tiny_cells = [], []
        config = resolved(composed)
        if all(config != c.config for c in out):  # two published models may share one embedded stand-in
            alone = [*held, f"cells=[{_quoted(str(entry))}]"] if entry else held
            out.append(Planned(config, job, alone, own))
    return out


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def resolved(composed: Any) -> Config:
    """Plain, checked config of one cell. Raises ConfigError or the OmegaConf error that names the key."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    for group in ("model", "task", "method", "engine", "tracking", "sandbox", "train"):
        if not isinstance(plain.get(group), dict):
            raise ConfigError(f"{group}: missing; leave out ~{group} or choose one with {group}=OPTION")
    return resolve({str(k): v for k, v in plain.items()})


def shrink(override: str, scale: str) -> str:
    """An override with the published model or task replaced by its embedded stand-in (scale=tiny)."""
    key, sep, value = override.partition("=")
    if scale == "tiny" and sep and key in TINY:
        return f"{key}={TINY[key].get(value, value)}"
    return override


def check_rest(config: Config) -> None:
    """What the schema leaves open: local paths must exist (hub ids are left to the hub), counts must make sense.

    Raises ConfigError.
    """
    if config.analysis:
        find("analysis", config.analysis)
    if config.tracking.name == "wandb" and not _importable("wandb"):
        raise ConfigError(f"tracking=wandb: wandb is not installed; {install_line('wandb')}, or use tracking=none")
    path = str(config.model.path)
    hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~", "embedded:")) and not os.path.isdir(path)
    if not hub_id:
        try:
            resolve_path(config.model)
        except DataError as error:
            raise ConfigError(str(error)) from error
    for key in ("path", "database_dir"):
        value = getattr(config.task, key, None)
        if value and not Path(value).expanduser().exists():
            raise ConfigError(f"task.{key}={value!r}: no such file or folder; give an existing path")


__all__ = ["CONFIGS", "Plan", "Planned", "check_rest", "groups", "make_plan", "parse_args", "shrink"]
