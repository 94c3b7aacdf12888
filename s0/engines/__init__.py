"""Generation engines. `hf` is the batched decode loop; `naive` is `model.generate` one request at a time, its reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s0.config.registry import ENGINES, find, make

if TYPE_CHECKING:
    from s0.engines.base import Engine


def make_engine(name: str, **values: Any) -> Engine:
    """Engine by name with settings of its own. Raises ConfigError listing the names when unknown."""
    cls = find("engine", name).config
    assert cls is not None
    engine: Engine = make("engine", cls(**{"name": name, **values}))
    return engine


__all__ = ["ENGINES", "make_engine"]
