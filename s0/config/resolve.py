"""From a composed config to a checked one with every default filled in, and its hash."""

from __future__ import annotations

import dataclasses
from typing import Any

from omegaconf import DictConfig, OmegaConf

from s0.config.registry import METHODS, method_schema
from s0.config.schema import (
    Config,
    DebugConfig,
    EngineConfig,
    ModelConfig,
    SandboxSettings,
    TaskConfig,
    TrackingConfig,
    TrainConfig,
)
from s0.config.seeds import parse_seeds
from s0.config.values import check_values
from s0.data import digest
from s0.errors import ConfigError, suggest
from s0.tiny.standins import EMBEDDED


def schema_fields(schema: type) -> list[str]:
    return [f.name for f in dataclasses.fields(schema)]


def check_keys(config: dict[str, Any]) -> None:
    """Refuse keys no schema knows (Hydra lets `+method.alhpa=2` through). Raises ConfigError with the nearest choice."""
    _only("", config, schema_fields(Config))
    schemas: dict[str, type] = {
        "model": ModelConfig,
        "task": TaskConfig,
        "engine": EngineConfig,
        "tracking": TrackingConfig,
        "sandbox": SandboxSettings,
        "train": TrainConfig,
        "debug": DebugConfig,
        "method": method_schema(config["method"].get("name")),
    }
    for group, schema in schemas.items():
        _only(f"{group}.", config[group], schema_fields(schema))


def _only(prefix: str, section: dict[str, Any], known: list[str]) -> None:
    for key in section:
        if key not in known:
            raise ConfigError(f"{prefix}{key}: unknown key; {suggest(str(key), known)}")


def resolve(cfg: DictConfig | dict[str, Any]) -> dict[str, Any]:
    """Plain, checked, fully resolved config: interpolations resolved, method defaults filled in.

    The result is what a record stores and what hashes are taken over. Raises ConfigError.
    """
    try:
        raw = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True) if OmegaConf.is_config(cfg) else cfg
    except Exception as error:
        raise ConfigError(f"config: {str(error).splitlines()[0]}; give the missing or wrong value") from error
    assert isinstance(raw, dict)
    config: dict[str, Any] = {str(k): v for k, v in raw.items()}
    check_keys(config)
    config["seed"] = parse_seeds(config["seed"])
    config["model"] = own_model(config["model"])
    config["method"] = resolve_method(config["method"], config["model"].get("hyperparameters") or {})
    check_values(config)
    return config


def own_model(model: dict[str, Any]) -> dict[str, Any]:
    """The model group, without an embedded preset's name and hyper-parameters where `path` is another checkpoint.

    The default model is an embedded one: `model.path=DIR` alone would put its name into records and tables and train the
    checkpoint with what was found for a model of under a million parameters. A published preset keeps both, since its path
    is replaced to read the same checkpoint from a folder; so does whatever is given a name of its own (`model.name=`).
    """
    if model.get("name") not in EMBEDDED or str(model.get("path")).startswith("embedded:"):
        return model
    return {**model, "name": "", "hyperparameters": {}}


def resolve_method(method: dict[str, Any], model_defaults: dict[str, Any]) -> dict[str, Any]:
    """Fill null fields from the model's documented values, then the published ones."""
    name = method["name"]
    schema = method_schema(name)
    known = schema_fields(schema)
    for m, values in model_defaults.items():
        fields = schema_fields(method_schema(m))
        for key in values or {}:
            if key not in fields:
                raise ConfigError(f"model.hyperparameters.{m}.{key}: unknown key; {suggest(str(key), fields)}")
    merged = {**METHODS[name][1], **(model_defaults.get(name) or {})}
    return {k: (method.get(k) if method.get(k) is not None else merged.get(k)) for k in known} | {"name": name}


#: where files go, how a run is tracked, planned, named and fitted into the machine: none of it changes a result
NOT_HASHED = frozenset(
    [
        "seed",
        "store",
        "records",
        "out",
        "tracking",
        "dry_run",
        "workers",
        "debug",
        "cells",
        "tiny_cells",
        "analysis",
        "scale",
        "experiment",
        "train",
    ]
)


def config_hash(config: dict[str, Any]) -> str:
    """Hash of what determines a cell's result: everything but where files go, how it is tracked and which seeds run."""
    kept = {k: v for k, v in config.items() if k not in NOT_HASHED}
    kept["engine"] = {"name": config["engine"]["name"]}
    kept["sandbox"] = {k: v for k, v in config["sandbox"].items() if k != "workers"}
    return digest(kept)
