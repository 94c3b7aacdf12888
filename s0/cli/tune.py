"""A search through settings by Optuna (`-m hydra/sweeper=optuna`): every trial is a cell, run in this process; the objective
is the score `method.alpha=auto` reached by cross-validation on training problems. Held-out problems decide nothing."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from s0.config.registry import register
from s0.config.schema import Config
from s0.errors import ConfigError, NoTrainingSolutions
from s0.paths import CONFIGS
from s0.runtime.extras import install_line
from s0.storage.records import Record
from s0.sweep.plan import key_of

PLUGIN = "hydra_plugins.hydra_optuna_sweeper"


#: what the search sets unless it is given: the score is to grow, trials run one by one, and the same command proposes the same
PRESET = {"hydra.sweeper.direction": "maximize", "hydra.sweeper.n_jobs": "1", "hydra.sweeper.sampler.seed": "0"}


def preset(overrides: Sequence[str]) -> list[str]:
    given = {key_of(o) for o in overrides}
    keys = [k for k in PRESET if k not in given]
    if any(key_of(o) == "hydra/sweeper/sampler" and o.endswith("=grid") for o in overrides):
        keys = [k for k in keys if "seed" not in k]
    return [f"{k}={PRESET[k]}" for k in keys]


def wanted(overrides: Sequence[str]) -> bool:
    return any(key_of(o) == "hydra/sweeper" and o.partition("=")[2] == "optuna" for o in overrides)


def check_search(overrides: Sequence[str], fixed: Sequence[str], launcher: bool) -> None:
    """What a search needs before anything is composed. `fixed`: the overrides that are no range. Raises ConfigError."""
    try:
        found = importlib.util.find_spec(PLUGIN) is not None
    except ImportError:
        found = False
    if not found:
        raise ConfigError(f"hydra/sweeper=optuna: {PLUGIN} is not installed; {install_line('optuna')}")
    if launcher:
        raise ConfigError(
            "hydra/sweeper=optuna: trials run in this process, one after the other; leave hydra/launcher out"
        )
    if any(key_of(o) == "hydra.sweeper.direction" and not o.endswith("=maximize") for o in overrides):
        raise ConfigError("hydra.sweeper.direction: the objective is a score: maximize; leave it out")
    ranges = [key_of(o) for o in overrides if o not in fixed]
    if not ranges and not any(key_of(o).startswith("hydra.sweeper.params") for o in overrides):
        raise ConfigError(
            "hydra/sweeper=optuna: nothing to search; give a range, such as 'method.lr=interval(1e-4, 1e-2)'"
        )
    for key in ("method.alpha", "seed"):
        if key in ranges:
            why = (
                "every trial chooses it by cross-validation"
                if key == "method.alpha"
                else "a trial is the mean over its seeds"
            )
            raise ConfigError(f"{key}: not to be searched: {why}; search another setting")


def check_objective(config: Config) -> None:
    """Raise ConfigError unless a cell has a validation score."""
    alpha = getattr(config.method, "alpha", None)
    if alpha != "auto":
        raise ConfigError(
            f"hydra/sweeper=optuna: method={config.method.name} with alpha={alpha} has no validation score (held-out problems "
            "must not choose settings); add method.alpha=auto (s0, state_offset), or list values: -m KEY=A,B"
        )
    if config.workers:
        raise ConfigError(
            f"workers={config.workers}: hydra/sweeper=optuna runs its trials in this process; leave it out"
        )


def objective(records: Sequence[Record]) -> float:
    """Mean over seeds of the best cross-validation score, in [0, 1]. Raises NoTrainingSolutions where there is none."""
    scores = [max(r.training.alpha_scores.values()) for r in records if r.training.alpha_scores]
    if not scores:
        why = next((r.error for r in records if r.error), None) or "too few training problems were solved for two folds"
        raise NoTrainingSolutions(f"hydra/sweeper=optuna: this trial has no validation score: {why}; sample more")
    return sum(scores) / len(scores)


def search(run_trial: Callable[[list[str]], float], argv: Sequence[str]) -> None:
    """Let Optuna propose overrides and `run_trial` value them. Raises what a trial raises."""

    def job(cfg: Any) -> float:
        from hydra.core.hydra_config import HydraConfig

        return run_trial(list(HydraConfig.get().overrides.task))

    hydra_main(job, list(argv))


def hydra_main(task: Callable[[Any], Any], argv: list[str]) -> None:
    """Hydra itself with this command line."""
    import hydra

    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach us; they are shown as one line
    saved = sys.argv
    sys.argv = [saved[0], *argv]
    try:
        hydra.main(config_path=str(CONFIGS), config_name="config", version_base="1.3")(task)()
    finally:
        sys.argv = saved
