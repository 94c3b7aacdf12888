"""Ranges and choices of every config value that can be judged before any data or model is read."""

from __future__ import annotations

import math
import re
from typing import Any

from s0.config.registry import ENGINES, TASKS
from s0.errors import ConfigError, suggest


def _number(config: dict[str, Any], key: str, low: float, high: float = float("inf"), integer: bool = False) -> None:
    group, _, name = key.partition(".")
    value = config[group].get(name) if name else config[group]
    if value is None:
        return
    kind = "an integer" if integer else "a number"
    ok = isinstance(value, int if integer else (int, float)) and not isinstance(value, bool)
    if not ok or not low <= value <= high:
        limit = f"{low:g} or more" if high == float("inf") else f"between {low:g} and {high:g}"
        raise ConfigError(f"{key}={value!r}: must be {kind}, {limit}")


def _one_of(config: dict[str, Any], key: str, choices: list[str]) -> None:
    group, _, name = key.partition(".")
    value = config[group].get(name) if name else config[group]
    if value is not None and value not in choices:
        raise ConfigError(f"{key}={value!r}: {suggest(str(value), choices)}")


def check_values(config: dict[str, Any]) -> None:
    """Ranges and choices of every value that can be judged without data or model. Raises ConfigError."""
    _one_of(config, "task.name", list(TASKS))
    _one_of(config, "task.match", ["official", "set", "published"])
    _one_of(config, "engine.name", list(ENGINES))
    _one_of(config, "tracking.name", ["none", "wandb"])
    _one_of(config, "model.dtype", ["auto", "float32", "bfloat16", "float16"])
    _one_of(config, "scale", ["paper", "tiny"])
    device = config["model"]["device"]
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ConfigError(f"model.device={device!r}: must be auto, cpu, cuda or cuda:N")
    for key, low, high, integer in (
        ("task.samples_per_problem", 1, 4096, True),
        ("task.temperature", 0, 10, False),
        ("task.top_p", 1e-6, 1, False),
        ("task.max_new_tokens", 1, 1_000_000, True),
        ("task.eval_samples", 1, 4096, True),
        ("task.eval_temperature", 0, 10, False),
        ("task.eval_top_p", 1e-6, 1, False),
        ("task.legacy_batch", 1, 4096, True),
        ("task.n_train", 1, float("inf"), True),
        ("task.n_eval", 1, float("inf"), True),
        ("task.grading_timeout_s", 0.01, 3600, False),
        ("engine.max_slots", 1, 65536, True),
        ("engine.threads", 1, 4096, True),
        ("engine.memory_gb", 1e-6, float("inf"), False),
        ("engine.prefill_tokens", 1, float("inf"), True),
        ("sandbox.workers", 1, 1024, True),
        ("sandbox.memory_mb", 64, float("inf"), True),
        ("train.token_budget", 1, float("inf"), True),
        ("train.snapshot_s", 0, float("inf"), False),
        ("method.n_steps", 1, 1_000_000, True),
        ("method.lr", 0, float("inf"), False),
        ("method.l2_lambda", 0, float("inf"), False),
        ("method.grad_clip", 0, float("inf"), False),
        ("method.max_length", 2, float("inf"), True),
        ("method.n_solutions", 1, float("inf"), True),
        ("method.n_virtual_tokens", 1, float("inf"), True),
    ):
        _number(config, key, low, high, integer)
    task, method = config["task"], config["method"]
    if any(isinstance(k, bool) or k < 1 or k > task["eval_samples"] for k in task["ks"]):
        raise ConfigError(
            f"task.ks={task['ks']}: every k must be between 1 and task.eval_samples={task['eval_samples']}"
        )
    if task["eval_samples"] > 1 and task["legacy_padding"]:
        raise ConfigError("task.legacy_padding=true: only the greedy protocol was batched that way; set eval_samples=1")
    if method["name"] in ("s0", "state_offset"):
        alpha = method["alpha"]
        numeric = isinstance(alpha, (int, float)) and not isinstance(alpha, bool) and math.isfinite(alpha)
        if alpha is not None and alpha != "auto" and not numeric:
            raise ConfigError(f"method.alpha={alpha!r}: must be a number, auto or null")
        layers = method["layers"]
        named = layers in ("all", "early", "middle", "late")
        listed = isinstance(layers, list) and layers and all(isinstance(i, int) and i >= 0 for i in layers)
        if not named and not listed:
            raise ConfigError(f"method.layers={layers!r}: must be all, early, middle, late or a list of layer indices")
        if isinstance(layers, list) and len(set(layers)) != len(layers):
            raise ConfigError(f"method.layers={layers!r}: a layer occurs twice")
    if method["name"] == "state_offset":
        _one_of(config, "method.mode", ["accumulate", "readout"])
        if method["alpha"] == "auto":
            raise ConfigError("method.alpha=auto: only for method=s0; give a number")
    if method["name"] == "s0":
        _one_of(config, "method.alpha_placement", ["after", "inside"])
        _number(config, "method.rank", 0, 4096, integer=True)
        if method["alpha"] == "auto" and method["alpha_placement"] == "inside":
            raise ConfigError("method.alpha=auto: alpha can be chosen after training only; set alpha_placement=after")
        grid = method["alpha_grid"]
        if not isinstance(grid, list) or not grid or any(not isinstance(a, (int, float)) or a <= 0 for a in grid):
            raise ConfigError(f"method.alpha_grid={grid!r}: must be a list of positive numbers")
    if method["name"] == "lora":
        rank = method["rank"]
        if rank != "match" and (not isinstance(rank, int) or isinstance(rank, bool) or rank < 1):
            raise ConfigError(f"method.rank={rank!r}: must be a positive integer or match")
