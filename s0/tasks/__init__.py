"""Benchmarks: one registry, `make_task` turns a `task:` config into a Task.

The registry holds import paths, not classes, so that importing this package loads neither `datasets` nor `math_verify`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from s0.config.registry import TASKS
from s0.errors import ConfigError
from s0.tasks.base import GradingItem, Part, Task


def make_task(name: str, config: Mapping[str, Any] | None = None) -> Task:
    """The task called `name`, set up from the `task:` config (missing keys take the published values).

    Nothing is loaded yet: the first `problems(...)` reads the data.
    Raises ConfigError for an unknown name or a bad value.
    """
    if name not in TASKS:
        raise ConfigError(f"task.name={name!r}: unknown task; choose one of {', '.join(TASKS)}")
    module, class_name = TASKS[name].split(":")
    task: Task = getattr(import_module(module), class_name)(dict(config or {}))
    return task


__all__ = ["TASKS", "GradingItem", "Part", "Task", "make_task"]
