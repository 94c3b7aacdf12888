"""The published import name: `from s0_tuning import S0Trainer, S0Config` is `from s0 import ...`."""

from s0 import InitialState, S0Config, S0Trainer, StateBank, __version__

__all__ = ["InitialState", "S0Config", "S0Trainer", "StateBank", "__version__"]
