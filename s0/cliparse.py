"""From a composed Hydra config to plain cell configs, and from Hydra's errors to one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from s0.config import Config, suggest
from s0.errors import ConfigError

#: the embedded stand-ins of `scale=tiny`
TINY = {
    "model": {
        "qwen35_08b": "tiny_gdn",
        "qwen35_2b": "tiny_gdn",
        "qwen35_4b": "tiny_gdn",
        "qwen35_9b": "tiny_gdn",
        "falcon_h1_7b": "tiny_mamba2",
        "qwen25_3b": "tiny_transformer",
    },
    "task": {"humaneval": "minieval"},
}


def groups(configs: Path) -> dict[str, list[str]]:
    """Config groups and their options, from the files."""
    return {d.name: sorted(f.stem for f in d.glob("*.yaml")) for d in sorted(configs.iterdir()) if d.is_dir()}


def shrink(override: str, scale: str) -> str:
    """An override with the published model or task replaced by its embedded stand-in (scale=tiny)."""
    key, sep, value = override.partition("=")
    if scale == "tiny" and sep and key in TINY:
        return f"{key}={TINY[key].get(value, value)}"
    return override


def expand_cells(cfg: dict[str, Any], overrides: list[str], configs: Path) -> list[dict[str, Any]]:
    """One plain config per cell: the config itself, or for a preset each entry of `cells` composed with it.

    Order of precedence: the preset's cell, then the command line. Raises ConfigError.
    """
    scale = cfg.get("scale", "paper")
    cells = cfg.get("cells") or []
    if not cells and scale != "tiny":
        return [cfg]
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    held = [o for o in overrides if not o.lstrip("+").startswith(("cells=", "hydra."))]
    user_keys = {o.lstrip("+").partition("=")[0] for o in held}
    lists: list[list[str]] = []
    for cell in cells or [""]:
        mine = [shrink(o, scale) for o in str(cell).split()]
        mine = [o for o in mine if o.lstrip("+").partition("=")[0] not in user_keys]
        lists.append(mine + [shrink(o, scale) for o in held])
    state = GlobalHydra.instance()
    saved = state.hydra
    state.clear()
    out: list[dict[str, Any]] = []
    try:
        with initialize_config_dir(str(configs), version_base="1.3"):
            for mine in lists:
                composed = compose("config", overrides=mine)
                plain: Any = OmegaConf.to_container(composed, resolve=False)
                plain["cells"] = []
                if plain not in out:  # two published models may share one embedded stand-in
                    out.append(plain)
    finally:
        state.hydra = saved
    return out


def hydra_error_line(error: Exception, configs: Path) -> str | None:
    """One line for an error of Hydra or OmegaConf, with the valid choices; None for anything else."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    cause: BaseException | None = error
    chain: list[BaseException] = []
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    if not any(isinstance(e, (HydraException, OmegaConfBaseException)) for e in chain):
        return None
    text = " ".join(" ".join(str(e).split()) for e in chain)
    available = groups(configs)
    if m := re.search(r"Could not find '([\w./-]+)/([\w.-]+)'", text):
        group, option = m.groups()
        return f"{group}={option}: no such option; {suggest(option, available.get(group, []))}"
    if m := re.search(r"Key '([\w-]+)' (?:is not in struct|not in '(\w+)')", text):
        key = m[1]
        full = re.search(r"full_key: ([\w.\[\]-]+)", text)
        path = full[1] if full else key
        return f"{path}: unknown key; {suggest(key, _siblings(path, available))}"
    if m := re.search(r"Could not override '([\w./@-]+)'", text):
        key = m[1]
        return f"{key}: unknown key or group; {suggest(key, [*available, *Config.__dataclass_fields__])}"
    if m := re.search(r"full_key: ([\w.]+)", text):
        first = " ".join(str(chain[-1]).split("\n")[0].split())
        return f"{m[1]}: {first}"
    first = next((line for e in chain for line in str(e).splitlines() if line.strip()), type(error).__name__)
    return first.strip()


def _siblings(path: str, available: dict[str, list[str]]) -> list[str]:
    """Keys valid where `path` points."""
    import dataclasses

    from s0 import config as schema

    head, _, rest = path.partition(".")
    if not rest:
        return sorted({*Config.__dataclass_fields__, *available})
    kinds: dict[str, Any] = {
        "model": schema.ModelConfig,
        "task": schema.TaskConfig,
        "engine": schema.EngineConfig,
        "tracking": schema.TrackingConfig,
        "sandbox": schema.SandboxSettings,
        "train": schema.TrainConfig,
        "debug": schema.DebugConfig,
    }
    if head == "method":
        names = {f.name for s, _ in schema.METHODS.values() for f in dataclasses.fields(s)}
        return sorted(names)
    return [f.name for f in dataclasses.fields(kinds[head])] if head in kinds else []


__all__ = ["ConfigError", "expand_cells", "groups", "hydra_error_line", "shrink"]
