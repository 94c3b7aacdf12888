"""Generation engines. `hf` is the batched decode loop; `naive` is `model.generate` one request at a time, its reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s0.config.registry import ENGINES
from s0.errors import ConfigError

if TYPE_CHECKING:
    from s0.engines.base import Engine


def make_engine(name: str, **settings: Any) -> Engine:
    """Engine by config name. Raises ConfigError listing the names when unknown."""
    if name == "hf":
        # start-up: torch
        from s0.engines.hf import HFEngine

        return HFEngine(**settings)
    if name == "naive":
        # start-up: torch
        from s0.engines.naive import NaiveEngine

        return NaiveEngine(**settings)
    raise ConfigError(f"engine.name={name!r}: must be one of {', '.join(ENGINES)}")
