"""Rules between settings, and forms no range can say; what one setting alone may be stands beside it in the schema."""

from __future__ import annotations

import math
import re

from s0.config.schema import Config, LoraMethod, S0Method, StateOffsetMethod
from s0.errors import ConfigError


def check_values(config: Config) -> None:
    """Raises ConfigError."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.model.device):
        raise ConfigError(f"model.device={config.model.device!r}: must be auto, cpu, cuda or cuda:N")
    task, method = config.task, config.method
    if any(k > task.eval_samples for k in task.ks):
        raise ConfigError(f"task.ks={task.ks}: every k must be between 1 and task.eval_samples={task.eval_samples}")
    if task.eval_samples > 1 and task.legacy_padding:
        raise ConfigError("task.legacy_padding=true: only the greedy protocol was batched that way; set eval_samples=1")
    if isinstance(method, S0Method | StateOffsetMethod):
        _check_alpha(method)
        _check_layers(method.layers)
    if isinstance(method, LoraMethod) and isinstance(method.rank, str) and method.rank != "match":
        raise ConfigError(f"method.rank={method.rank!r}: must be a positive integer or match")


def _check_alpha(method: S0Method | StateOffsetMethod) -> None:
    alpha = method.alpha
    if (isinstance(alpha, str) and alpha != "auto") or (isinstance(alpha, float) and not math.isfinite(alpha)):
        null = ", or null" if isinstance(method, S0Method) else ""
        raise ConfigError(f"method.alpha={alpha!r}: must be a number or auto{null}")
    if alpha == "auto" and isinstance(method, S0Method) and method.alpha_placement == "inside":
        raise ConfigError("method.alpha=auto: alpha can be chosen after training only; set alpha_placement=after")
    if not method.alpha_grid:
        raise ConfigError("method.alpha_grid=[]: must be a list of positive numbers")


def _check_layers(layers: str | list[int]) -> None:
    named = layers in ("all", "early", "middle", "late")
    listed = isinstance(layers, list) and layers and all(i >= 0 for i in layers)
    if not named and not listed:
        raise ConfigError(f"method.layers={layers!r}: must be all, early, middle, late or a list of layer indices")
    if isinstance(layers, list) and len(set(layers)) != len(layers):
        raise ConfigError(f"method.layers={layers!r}: a layer occurs twice")
