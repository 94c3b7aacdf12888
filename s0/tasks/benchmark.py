"""What the benchmarks share: reading their config keys, cutting the parts, checking that the parts never overlap."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, TypeVar

from s0.config.schema import TaskConfig
from s0.data import Problem, digest
from s0.errors import ConfigError, DataError, SandboxError
from s0.tasks.base import Part, Task

T = TypeVar("T")


class Benchmark(Task):
    """A Task over two fixed lists of problems. Subclasses implement `load`.

    Settings read here: `n_train`, `n_eval`, `grading_timeout_s`, `match`, `path`, `hub_id`, `hub_revision` (see
    `s0.tasks.source`).
    """

    #: how completions are graded, in words for records and tables; set per instance where the config chooses
    grading: str = ""

    def __init__(self, config: TaskConfig) -> None:
        self.config = config
        self.path, self.hub_id, self.hub_revision = config.path, config.hub_id, config.hub_revision
        self.match = config.match
        self.timeout_s = float(config.grading_timeout_s)
        self._parts: dict[Part, list[Problem]] | None = None
        #: where the problems came from and how they were split, for the record (known once they are loaded)
        self.source = ""

    @abc.abstractmethod
    def load(self) -> tuple[list[Problem], list[Problem]]:
        """(training part, held-out part), complete and in benchmark order; sets `source`. Raises DataError."""

    def problems(self, part: Part) -> list[Problem]:
        """See Task.problems. Raises DataError (unreadable data, overlap) or ConfigError (n larger than the part)."""
        if self._parts is None:
            train, heldout = self.load()
            parts: dict[Part, list[Problem]] = {
                "train": self._first(train, "n_train"),
                "heldout": self._first(heldout, "n_eval"),
            }
            check_disjoint(self.name, parts["train"], parts["heldout"])
            self._parts = parts
        return list(self._parts[part])

    def _first(self, items: list[T], key: str) -> list[T]:
        limit = getattr(self.config, key)
        if limit is not None and limit > len(items):
            raise ConfigError(
                f"task.{key}={limit}: this part of {self.name} has {len(items)} problems; "
                f"choose 1..{len(items)} or null for all"
            )
        return items[:limit]

    def dataset_hash(self) -> str:
        rows = [[part, p.id, p.prompt, p.reference] for part in ("train", "heldout") for p in self.problems(part)]
        return digest([self.name, rows])

    def _need_sandbox(self, sandbox: Any) -> Any:
        if sandbox is None:
            raise SandboxError(f"task {self.name} runs model-written code: grade it with a sandbox, never without")
        return sandbox


def check_disjoint(name: str, train: Sequence[Problem], heldout: Sequence[Problem]) -> None:
    """Raise DataError unless ids are unique and no id and no prompt stands in both parts; both parts are non-empty."""
    for label, part in (("training", train), ("held-out", heldout)):
        if not part:
            raise DataError(f"{name}: the {label} part is empty; the data needs at least one problem for each part")
    seen: dict[str, str] = {}
    prompts = {p.prompt.strip(): p.id for p in train}
    for label, part in (("training", train), ("held-out", heldout)):
        for problem in part:
            if problem.id in seen:
                where = f"twice in the {label} part" if seen[problem.id] == label else "in both parts"
                raise DataError(f"{name}: id {problem.id!r} occurs {where}; every problem needs an id of its own")
            seen[problem.id] = label
    for problem in heldout:
        if problem.prompt.strip() in prompts:
            raise DataError(
                f"{name}: held-out problem {problem.id!r} has the prompt of training problem "
                f"{prompts[problem.prompt.strip()]!r}; remove one: the parts must not overlap"
            )
