"""Benchmarks. `task_of` turns the task section of a config into a Task, `make_task` a name and a few values.

The registry (`s0.config.registry`) holds import paths, not classes, so that importing this package loads neither `datasets`
nor `math_verify`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s0.config.registry import TASKS, find, make
from s0.config.schema import TaskConfig
from s0.errors import ConfigError, suggest
from s0.settings import check, names
from s0.tasks.base import GradingItem, Part, Task


def task_of(config: TaskConfig) -> Task:
    """Nothing is loaded yet: the first `problems(...)` reads the data. Raises ConfigError."""
    task: Task = make("task", config)
    return task


def make_task(name: str, values: Mapping[str, Any] | None = None) -> Task:
    """The task called `name`; keys missing in `values` take the published values.

    Raises ConfigError for an unknown name or key, or a bad value.
    """
    cls = find("task", name).config
    assert cls is not None
    for key in values or {}:
        if key not in names(cls):
            raise ConfigError(f"task.{key}: unknown key; {suggest(key, names(cls))}")
    config = cls(**{**(values or {}), "name": name})
    check(config, "task.")
    return task_of(config)


__all__ = ["TASKS", "GradingItem", "Part", "Task", "make_task", "task_of"]
