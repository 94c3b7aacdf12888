"""S0 tuning: adapt hybrid recurrent-attention language models by learning the state their recurrent layers start from.

`from s0 import S0Trainer, S0Config, InitialState, StateBank`; heavy modules load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from s0.paths import refuse_published

if TYPE_CHECKING:
    from s0.bank import StateBank as StateBank
    from s0.data import Example as Example
    from s0.state.cache import S0Cache as S0Cache
    from s0.state.cache import TrainingCache as TrainingCache
    from s0.state.cache import rows_of as rows_of
    from s0.state.families import Layout as Layout
    from s0.state.families import describe as describe
    from s0.state.hub import CardResult as CardResult
    from s0.state.hub import write_folder as write_folder
    from s0.state.initial import InitialState as InitialState
    from s0.state.inject import Injection as Injection
    from s0.state.inject import self_test as self_test
    from s0.tiny.models import embedded_model as embedded_model
    from s0.trainer import S0Config as S0Config
    from s0.trainer import S0Trainer as S0Trainer
    from s0.training.fit import fit_states as fit_states
    from s0.training.jobs import FitConfig as FitConfig
    from s0.training.jobs import FitJob as FitJob

__version__ = "0.1.0"

refuse_published()

#: every name docs/library.md needs -> where it lives; files may move, these names stay
_LAZY = {
    "S0Trainer": "s0.trainer",
    "S0Config": "s0.trainer",
    "InitialState": "s0.state.initial",
    "StateBank": "s0.bank",
    "Layout": "s0.state.families",
    "describe": "s0.state.families",
    "Injection": "s0.state.inject",
    "self_test": "s0.state.inject",
    "S0Cache": "s0.state.cache",
    "TrainingCache": "s0.state.cache",
    "rows_of": "s0.state.cache",
    "FitConfig": "s0.training.jobs",
    "FitJob": "s0.training.jobs",
    "fit_states": "s0.training.fit",
    "Example": "s0.data",
    "CardResult": "s0.state.hub",
    "write_folder": "s0.state.hub",
    "embedded_model": "s0.tiny.models",
}
__all__ = [
    "CardResult",
    "Example",
    "FitConfig",
    "FitJob",
    "InitialState",
    "Injection",
    "Layout",
    "S0Cache",
    "S0Config",
    "S0Trainer",
    "StateBank",
    "TrainingCache",
    "__version__",
    "describe",
    "embedded_model",
    "fit_states",
    "rows_of",
    "self_test",
    "write_folder",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 's0' has no attribute {name!r}")
