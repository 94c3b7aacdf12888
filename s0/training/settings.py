"""The hyper-parameters of training, stated once for methods, `S0Config` and the PEFT tuner (paper, Table 4)."""

from __future__ import annotations

from dataclasses import dataclass

from s0.settings import setting

#: names of the optimisers (`s0.training.optimizers`, which is too heavy to import for a check)
OPTIMIZERS = ("adam", "sgd")


@dataclass
class Training:
    """How anything is trained: one step over the whole set, gradients averaged over its solutions."""

    n_steps: int = setting(20, "optimiser steps, each over all examples", low=1, high=1_000_000)
    lr: float = setting(1e-3, "learning rate", low=0)
    grad_clip: float = setting(1.0, "largest gradient norm over all learned tensors (0: no clipping)", low=0)
    max_length: int = setting(2048, "longest prompt with completion", low=2, unit="tokens")
    optimizer: str = setting("adam", "what takes the steps", choices=OPTIMIZERS)


@dataclass
class StateTraining(Training):
    """A tensor per recurrent layer, trained with a penalty on its norm."""

    l2_lambda: float = setting(5e-4, "weight of the squared norm of what is learned", low=0)


@dataclass
class StateUse:
    """How a learned state enters a model."""

    alpha: float | None = setting(
        None, "factor on the learned state (null: the architecture's, 0.07 GatedDeltaNet, 0.65 Mamba-2)"
    )
    normalize: bool = setting(False, "divide each layer's state by its Frobenius norm before alpha")
