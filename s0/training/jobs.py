"""What is to be trained, and what came out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from s0.data import Example
from s0.settings import shared
from s0.state.initial import InitialState
from s0.training.settings import StateTraining


@dataclass(frozen=True)
class FitConfig:
    """Hyper-parameters of one job (paper, Table 4).

    n_steps optimiser steps, each over the whole set; lr of Adam; l2_lambda weight of the squared norm; grad_clip on the
    norm over all layers (0 = none); max_length tokens of prompt + completion; layers to learn (None = all recurrent);
    alpha_inside: train through alpha * S (the paper's Algorithm 1) instead of scaling afterwards (the published code);
    normalize: train through alpha * S / ||S|| (only with alpha_inside); rank > 0: S is a sum of `rank` outer products
    per head; seed: initialisation of low-rank factors; optimizer: a name of `s0.training.optimizers`.
    """

    n_steps: int = shared(StateTraining, "n_steps")
    lr: float = shared(StateTraining, "lr")
    l2_lambda: float = shared(StateTraining, "l2_lambda")
    grad_clip: float = shared(StateTraining, "grad_clip")
    max_length: int = shared(StateTraining, "max_length")
    layers: tuple[int, ...] | None = None
    alpha: float = 1.0
    alpha_inside: bool = False
    normalize: bool = False
    rank: int = 0
    seed: int = 0
    optimizer: str = shared(StateTraining, "optimizer")


@dataclass
class FitJob:
    """One state to learn. `init` (optional) is the state to start from instead of zero."""

    examples: list[Example]
    config: FitConfig
    init: InitialState | None = None


@dataclass
class FitResult:
    """`state` has the configured alpha and normalize; lists have one entry per step (before that step's update).

    `losses` is the cross entropy (nats per completion token), `objective` what is minimised: with the penalty on the norm.
    """

    state: InitialState
    losses: list[float] = field(default_factory=list)
    objective: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)

    @property
    def avg_state_norm(self) -> float:
        """Mean over learned layers of the Frobenius norm before alpha."""
        norms = self.state.norms()
        return sum(norms.values()) / len(norms)


@dataclass
class FitContext:
    """What a method may use. `progress(step, n_steps, losses)` after each step; `resume`/`on_step` as in s0.training.fit."""

    model: Any
    tokenizer: Any
    #: s0.state.families.Layout, or None for a model without recurrent layers
    layout: Any
    token_budget: int | None = None
    checkpointing: bool = False
    progress: Callable[[int, int, list[float]], None] | None = None
    resume: dict[str, Any] | None = None
    on_step: Callable[[int, Callable[[], dict[str, Any]]], None] | None = None


@dataclass(frozen=True)
class TrainingSet:
    seed: int
    examples: list[Example]


@dataclass
class Curve:
    """Cross entropy, objective (with the penalty, where a method has one) and gradient norm before each step's update."""

    losses: list[float] = field(default_factory=list)
    objective: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, result: FitResult) -> Curve:
        return cls(result.losses, result.objective, result.grad_norms)

    def to_json(self) -> dict[str, Any]:
        return {"losses": self.losses, "objective": self.objective, "grad_norms": self.grad_norms}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Curve:
        """Raises KeyError where a list is missing."""
        return cls(*(list(data[k]) for k in ("losses", "objective", "grad_norms")))
