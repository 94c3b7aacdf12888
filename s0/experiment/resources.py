"""What the cells of one process share: the store, one loaded model at a time, and one sandbox."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass, field
from typing import Any

from s0.config.schema import Config, ModelConfig, SandboxSettings
from s0.data import digest
from s0.experiment.checkpoint import Checkpoint
from s0.storage import keys
from s0.storage.store import Store


class ResourceCache:
    """One set of resources (store, sandbox, loaded model) at a time, shared by the cells that agree on its settings."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._key = ""
        self._resources: Any = None

    def get(self, config: Config) -> Any:
        key = digest([config.store, dataclasses.asdict(config.sandbox)])
        if key != self._key:
            self.close()
            store = Store(config.store)
            store.claim_layout(keys.LAYOUT)
            self._resources = self._stack.enter_context(Resources(store, config.sandbox))
            self._key = key
        return self._resources

    def close(self) -> None:
        self._key, self._resources = "", None
        self._stack.close()

    def __enter__(self) -> ResourceCache:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


@dataclass
class Resources:
    """What cells share: the store, loaded models, and one sandbox. Use as a context manager."""

    store: Store
    sandbox_settings: SandboxSettings
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    _sandbox: Any = None

    def checkpoint(self, config: ModelConfig) -> Checkpoint:
        key = digest(dataclasses.asdict(config))
        if key not in self.checkpoints:
            self.checkpoints.clear()  # one model in memory at a time
            self.checkpoints[key] = Checkpoint(config, self.store.root)
        return self.checkpoints[key]

    def sandbox(self) -> Any:
        if self._sandbox is None:
            # start-up: the sandbox's self-test modules, where nothing is executed
            from s0.sandbox import Sandbox

            s = self.sandbox_settings
            self._sandbox = Sandbox(
                workers=s.workers,
                memory_mb=s.memory_mb,
                allow_unisolated=s.allow_unisolated,
                judge=s.judge,  # type: ignore[arg-type]
                packages=s.packages,
                answer_packages=s.answer_packages,
            )
            self._sandbox.__enter__()
        return self._sandbox

    def tier(self) -> str:
        return str(self.sandbox().tier)

    def __enter__(self) -> Resources:
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._sandbox is not None:
            self._sandbox.__exit__(*exc)
            self._sandbox = None
