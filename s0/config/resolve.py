"""From a composed config to a checked one with every default filled in, and its hash."""

from __future__ import annotations

import dataclasses
from typing import Any

from omegaconf import DictConfig, OmegaConf

from s0.config.registry import PLAIN_GROUPS, SECTIONS, find
from s0.config.schema import Config, MethodConfig, ModelConfig
from s0.config.seeds import parse_seeds
from s0.config.values import check_values
from s0.errors import ConfigError, suggest
from s0.settings import check, names
from s0.tiny.standins import EMBEDDED


def resolve(cfg: DictConfig | dict[str, Any]) -> Config:
    """The typed config of one cell: interpolations resolved, method defaults filled in, every value checked.

    Raises ConfigError.
    """
    try:
        raw = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True) if OmegaConf.is_config(cfg) else cfg
    except Exception as error:
        raise ConfigError(f"config: {str(error).splitlines()[0]}; give the missing or wrong value") from error
    assert isinstance(raw, dict)
    config: dict[str, Any] = {str(k): v for k, v in raw.items()}
    _only("", config, names(Config))
    values: dict[str, Any] = {k: v for k, v in config.items() if not isinstance(v, dict)}
    values["seed"] = parse_seeds(config["seed"])
    for group, cls in {**PLAIN_GROUPS, **SECTIONS}.items():
        values[group] = _typed(group, cls, config.get(group, {}))
    values["model"] = own_model(values["model"])
    for group in ("task", "engine", "tracking"):
        values[group] = _typed(group, _class(group, config[group].get("name")), config[group])
    values["method"] = resolve_method(config["method"], values["model"].hyperparameters)
    resolved = Config(**values)
    check_all(resolved)
    return resolved


def check_all(config: Config) -> None:
    """Types, ranges and choices of every setting, then the rules between settings. Raises ConfigError."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            check(value, f"{f.name}.")
    check(config)
    check_values(config)


def from_json(data: dict[str, Any]) -> Config:
    """The config `to_json` was made from (a plan's cell); it was checked then."""
    values = dict(data)
    for group, cls in {**PLAIN_GROUPS, **SECTIONS}.items():
        values[group] = cls(**values[group])
    for group in ("task", "engine", "tracking", "method"):
        values[group] = _class(group, values[group]["name"])(**values[group])
    return Config(**values)


def to_json(config: Config) -> dict[str, Any]:
    """Plain types, as records keep it and as hashes are taken over it."""
    return dataclasses.asdict(config)


def _class(group: str, name: Any) -> type:
    cls = find(group, name).config
    assert cls is not None
    return cls


def _typed(group: str, cls: type, section: dict[str, Any]) -> Any:
    _only(f"{group}.", section, names(cls))
    return cls(**section)


def _only(prefix: str, section: dict[str, Any], known: list[str]) -> None:
    """Refuse keys no setting has (Hydra lets `+method.alhpa=2` through)."""
    for key in section:
        if key not in known:
            raise ConfigError(f"{prefix}{key}: unknown key; {suggest(str(key), known)}")


def own_model(model: ModelConfig) -> ModelConfig:
    """The model group, without an embedded preset's name and hyper-parameters where `path` is another checkpoint.

    The default model is an embedded one: `model.path=DIR` alone would put its name into records and tables and train the
    checkpoint with what was found for a model of under a million parameters. A published preset keeps both, since its path
    is replaced to read the same checkpoint from a folder; so does whatever is given a name of its own (`model.name=`).
    """
    if model.name not in EMBEDDED or str(model.path).startswith("embedded:"):
        return model
    return dataclasses.replace(model, name="", hyperparameters={})


def resolve_method(method: dict[str, Any], documented: dict[str, Any]) -> MethodConfig:
    """Settings of a method: what is given, else the model's documented values, else the published ones."""
    cls = _class("method", method.get("name"))
    for name, values in documented.items():
        known = names(_class("method", name))
        for key in values or {}:
            if key not in known:
                raise ConfigError(f"model.hyperparameters.{name}.{key}: unknown key; {suggest(str(key), known)}")
    _only("method.", method, names(cls))
    given = {k: v for k, v in method.items() if v is not None}
    return cls(**{**(documented.get(method["name"]) or {}), **given})
