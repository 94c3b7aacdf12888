"""Methods by config name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from s0.config.registry import METHODS
from s0.errors import ConfigError, suggest
from s0.methods.base import Adapter, Method, Training
from s0.training.jobs import Curve, FitContext, TrainingSet

_CLASSES = {
    "none": "s0.methods.none:NoMethod",
    "s0": "s0.methods.s0:S0",
    "state_offset": "s0.methods.state_offset:StateOffset",
    "lora": "s0.methods.lora:Lora",
    "prefix": "s0.methods.prefix:Prefix",
}
assert _CLASSES.keys() == METHODS.keys()


def make_method(settings: dict[str, Any]) -> Method:
    """Method from its resolved settings. Raises ConfigError for an unknown name."""
    name = settings.get("name")
    if name not in _CLASSES:
        raise ConfigError(f"method.name={name!r}: {suggest(str(name), list(_CLASSES))}")
    module, cls = _CLASSES[name].split(":")
    return getattr(import_module(module), cls)(settings)


__all__ = ["Adapter", "Curve", "FitContext", "Method", "Training", "TrainingSet", "make_method"]
