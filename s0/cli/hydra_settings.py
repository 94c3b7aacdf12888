"""Overrides of Hydra's own settings: honoured, or refused with the way out. None is accepted and ignored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s0.errors import ConfigError
from s0.sweep.plan import key_of

#: what has its effect where cells run in this process or its workers
HONOURED = ("hydra.searchpath", "hydra.mode", "hydra.run.dir", "hydra.sweep.dir", "hydra/sweeper", "hydra.sweeper.",
            "hydra/launcher", "hydra.launcher.", "hydra/sweeper/sampler")  # fmt: skip


def is_hydra(override: str) -> bool:
    return override.lstrip("+~").startswith(("hydra.", "hydra/"))


def check_hydra(overrides: Sequence[str], multirun: bool) -> None:
    """Raise ConfigError for the first override that would have no effect."""
    launched = any(key_of(o) == "hydra/launcher" and not o.endswith("=basic") for o in overrides)
    for o in overrides:
        key, value = key_of(o), o.partition("=")[2]
        if not is_hydra(o) or value.lower() in ("null", "false"):
            continue
        if not multirun and key.startswith(("hydra/launcher", "hydra.launcher", "hydra.sweep", "hydra/sweeper")):
            raise ConfigError(f"{o}: only for a sweep; add -m")
        if key == "hydra.job.chdir":
            raise ConfigError(
                f"{o}: not supported: folders mean the same for all cells, from where you stand; give them instead: "
                f"hydra.{'sweep' if multirun else 'run'}.dir=DIR, or records=DIR out=DIR store=DIR"
            )
        if key == "hydra.run.dir" and multirun:
            raise ConfigError(f"{o}: a sweep writes to hydra.sweep.dir; write hydra.sweep.dir={value}")
        if key == "hydra.output_subdir":
            raise ConfigError(f"{o}: not supported: every record holds its resolved config; see also --cfg job")
        if not launched and not key.startswith(HONOURED):
            raise ConfigError(f"{o}: has no effect here: cells run in this process, without Hydra's job; leave it out")


def output_folder(loader: Any, overrides: Sequence[str], multirun: bool) -> list[str]:
    """hydra.run.dir and hydra.sweep.dir as overrides of ours: records and summary go there unless they are given. The store
    stays: runs share it."""
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    if not any(key_of(o) == key for o in overrides):
        return []
    from hydra.types import RunMode

    cfg = loader.load_configuration("config", list(overrides), run_mode=RunMode.MULTIRUN if multirun else RunMode.RUN)
    folder = Path(str(cfg.hydra.sweep.dir if multirun else cfg.hydra.run.dir)).expanduser()
    given = {key_of(o) for o in overrides}
    places = {"records": folder / "records", "out": folder / "summary"}
    return [f"{name}={_value(path)}" for name, path in places.items() if name not in given]


def _value(path: Path) -> str:
    text = str(path)
    if re.fullmatch(r"[\w./~-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
