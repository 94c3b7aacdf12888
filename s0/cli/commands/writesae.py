"""`python run.py study=writesae ...`: dictionaries of what a recurrent layer writes (docs/writesae.md)."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any, get_type_hints

from s0.cli.compose import make_plan, parse_args
from s0.config.schema import Config
from s0.errors import ConfigError, suggest
from s0.runtime.process import set_threads
from s0.storage.store import Store

OWN = ("study", "experiment", "scale")
#: keys of a run that this study reads as well; everything else is a setting of its own
SHARED = ("model", "seed", "store", "records", "engine.threads")


def main(argv: list[str], program: str = "python run.py") -> int:
    """Run the cells of a command line; returns the exit code. Raises S0Error."""
    from s0.experiment.checkpoint import Checkpoint  # start-up: torch
    from s0.writesae.run import run_study, table  # start-up: torch

    checkpoints: dict[str, Any] = {}
    planned = [plan(words) for words in cells(argv)]
    if any("=" in a and a.split("=")[0] == "dry_run" for a in argv) or "--dry-run" in argv:
        for config, settings, _ in planned:
            print(f"{config.model.label} site {settings.site} {settings.variant} {settings.input} seeds {config.seed}")
        return 0
    for config, settings, words in planned:
        set_threads(config.engine.threads)
        store = Store(config.store)
        if config.model.path not in checkpoints:
            checkpoints = {config.model.path: Checkpoint(config.model, store.root)}  # one model in memory at a time
        command = f"{program} study=writesae {shlex.join(words)}"
        results = run_study(
            checkpoints[config.model.path], store, settings, config.seed, Path(config.records) / "writesae", command
        )
        print(table(results), flush=True)
    return 0


def cells(argv: list[str]) -> list[list[str]]:
    """Words of each cell: the command line's own, or those of a preset with the command line's before them."""
    # start-up: torch
    from s0.writesae.presets import cells_of

    given = dict(word.partition("=")[::2] for word in argv if not word.startswith("-"))
    mine = [w for w in argv if not w.startswith("-") and w.partition("=")[0] not in (*OWN, "dry_run")]
    scale = given.get("scale", "paper")
    if scale not in ("paper", "tiny"):
        raise ConfigError(f"scale={scale!r}: must be paper or tiny")
    name = given.get("experiment")
    if name is None:
        return [mine]
    keys = {w.partition("=")[0] for w in mine}
    return [[*(w for w in c.split() if w.partition("=")[0] not in keys), *mine] for c in cells_of(name, scale)]


def plan(words: list[str]) -> tuple[Config, Any, list[str]]:
    """The run's config (model, seeds, folders), the study's settings, and the words. Raises ConfigError."""
    # start-up: torch
    from s0.writesae.run import StudySettings

    hints = get_type_hints(StudySettings)
    shared, values = [], {}
    for word in words:
        key, equals, value = word.partition("=")
        if key in hints and equals:
            try:
                values[key] = hints[key](value)
            except ValueError as error:
                raise ConfigError(f"{key}={value!r}: must be of type {hints[key].__name__}") from error
        elif key in SHARED or key.startswith("model."):
            shared.append(word)
        else:
            known = [*SHARED, *(f.name for f in dataclasses.fields(StudySettings))]
            raise ConfigError(f"{key}: not a setting of study=writesae; {suggest(key, known)}")
    (one,) = make_plan(parse_args(shared)).cells
    return one.config, StudySettings(**values), words
