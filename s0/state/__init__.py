"""States: where a model keeps them, how they are stored, and how they enter it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s0.state.cache import S0Cache as S0Cache
    from s0.state.families import Layout as Layout
    from s0.state.families import describe as describe
    from s0.state.initial import InitialState as InitialState
    from s0.state.inject import Injection as Injection

#: loaded on first use: importing a submodule must not cost the others
_LAZY = {
    "InitialState": "s0.state.initial",
    "Layout": "s0.state.families",
    "describe": "s0.state.families",
    "Injection": "s0.state.inject",
    "S0Cache": "s0.state.inject",
}
__all__ = ["InitialState", "Injection", "Layout", "S0Cache", "describe"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 's0.state' has no attribute {name!r}")
