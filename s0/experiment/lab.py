"""What the cells of one process share: the store, one loaded model at a time, and one sandbox."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from s0.data import digest
from s0.experiment.checkpoint import Subject
from s0.storage.store import Store


class Labs:
    """One laboratory (store, sandbox, loaded model) at a time, shared by the cells that agree on its settings."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._key = ""
        self._lab: Any = None

    def get(self, config: dict[str, Any]) -> Any:
        from s0.experiment.lab import Lab

        key = digest([config["store"], config["sandbox"]])
        if key != self._key:
            self.close()
            self._lab = self._stack.enter_context(Lab(Store(config["store"]), config["sandbox"]))
            self._key = key
        return self._lab

    def close(self) -> None:
        self._key, self._lab = "", None
        self._stack.close()

    def __enter__(self) -> Labs:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


@dataclass
class Lab:
    """What cells share: the store, loaded models, and one sandbox. Use as a context manager."""

    store: Store
    sandbox_settings: dict[str, Any]
    subjects: dict[str, Subject] = field(default_factory=dict)
    _sandbox: Any = None

    def subject(self, config: dict[str, Any]) -> Subject:
        key = digest(config)
        if key not in self.subjects:
            self.subjects.clear()  # one model in memory at a time
            self.subjects[key] = Subject(config, self.store.root)
        return self.subjects[key]

    def sandbox(self) -> Any:
        if self._sandbox is None:
            from s0.sandbox import Sandbox

            s = self.sandbox_settings
            self._sandbox = Sandbox(
                workers=s["workers"], memory_mb=s["memory_mb"], allow_unisolated=s["allow_unisolated"]
            )
            self._sandbox.__enter__()
        return self._sandbox

    def tier(self) -> str:
        return str(self.sandbox().tier)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._sandbox is not None:
            self._sandbox.__exit__(*exc)
            self._sandbox = None
