"""S0 tuning: adapt hybrid recurrent-attention language models by learning the state their recurrent layers start from.

`from s0 import S0Trainer, S0Config, InitialState, StateBank`; heavy modules load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from s0.paths import refuse_published

if TYPE_CHECKING:
    from s0.bank import StateBank as StateBank
    from s0.state.initial import InitialState as InitialState
    from s0.trainer import S0Config as S0Config
    from s0.trainer import S0Trainer as S0Trainer

__version__ = "0.1.0"

refuse_published()

_LAZY = {
    "S0Trainer": "s0.trainer",
    "S0Config": "s0.trainer",
    "InitialState": "s0.state.initial",
    "StateBank": "s0.bank",
}
__all__ = ["InitialState", "S0Config", "S0Trainer", "StateBank", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 's0' has no attribute {name!r}")
