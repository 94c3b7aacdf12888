"""Methods by config name (`s0.config.registry`)."""

from __future__ import annotations

from s0.config.registry import METHODS, make
from s0.config.schema import MethodConfig
from s0.methods.base import Adapter, AlphaChoice, Curve, FitContext, Method, Training, TrainingSet


def make_method(settings: MethodConfig) -> Method:
    """Method from its resolved settings. Raises ConfigError for an unknown name."""
    method: Method = make("method", settings)
    return method


__all__ = [
    "METHODS",
    "Adapter",
    "AlphaChoice",
    "Curve",
    "FitContext",
    "Method",
    "Training",
    "TrainingSet",
    "make_method",
]
