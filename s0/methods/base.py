"""Every method on one interface: fit on verified examples -> adapter -> evaluate.

method = make_method(settings)
adapters = method.fit(ctx, [TrainingSet(seed, examples), ...])     # one adapter per training set
adapter.save(folder); method.load(ctx, folder)
adapter.state            an InitialState, where rows of a shared batch can carry it (S0)
adapter.applied(model)   otherwise: a context in which the returned model is the adapted one
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from s0.state.families import Layout
from s0.state.initial import InitialState
from s0.training.batches import truncate
from s0.training.fit import fit_states
from s0.training.jobs import Curve, FitContext, FitJob, FitResult, TrainingSet

#: what an adapter costs at inference: nothing, nothing after merging, work at every step, or longer prompts
CostClass = Literal["none", "merge", "per-step", "extra tokens"]


@dataclass
class AlphaChoice:
    """How alpha was set for one seed: its value (None: the method has none), where it comes from, and for "auto" the
    cross-validation accuracy of every alpha of the grid."""

    alpha: float | None = None
    source: str = ""
    scores: dict[str, float] = field(default_factory=dict)


class Adapter(abc.ABC):
    """What a method learned. `trainable_params` counts floats; `curve` is empty for loaded adapters of old folders."""

    trainable_params: int = 0
    curve: Curve

    @property
    def state(self) -> InitialState | None:
        """The initial state, if that is all this adapter is."""
        return None

    @property
    def use(self) -> Any:
        """What of the way the adapter is applied, beyond what was learned, its outputs depend on (plain JSON types)."""
        return None

    def at(self, alpha: float | None, settings: Any) -> Adapter:
        """The adapter as it is used with this alpha and the method's settings."""
        return self

    @abc.abstractmethod
    def applied(self, model: Any) -> contextlib.AbstractContextManager[Any]:
        """Context yielding the adapted model; leaving it gives the base model back, bit for bit."""

    @abc.abstractmethod
    def save(self, folder: Path) -> None: ...


class Method(abc.ABC):
    """`settings` is the resolved method section of the config (a `MethodConfig` of the method's own class)."""

    settings: Any

    name: ClassVar[str]
    inference_cost: ClassVar[CostClass]
    #: False: nothing is sampled or learned (the baseline as a cell of its own)
    trains: ClassVar[bool] = True
    #: True if what was learned is scaled by an alpha
    has_alpha: ClassVar[bool] = False
    #: True if fit can stop at a step and be resumed from a snapshot
    resumable: ClassVar[bool] = False

    def __init__(self, settings: Any):
        self.settings = settings

    def label(self) -> str:
        """Name in tables (for example lora_r24)."""
        return self.name

    def determinants(self) -> dict[str, Any]:
        """The settings that determine what `fit` learns; the store key of an adapter is made from them.

        All settings but those of `use_only`: one that is added later counts unless it is named there.
        """
        denied = {"n_solutions", *self.use_only()}  # the solutions themselves are in the key
        return {k: v for k, v in dataclasses.asdict(self.settings).items() if k not in denied}

    def use_only(self) -> tuple[str, ...]:
        """Settings that decide how what was learned is used, not what is learned."""
        return ()

    def alpha(self, layout: Layout) -> AlphaChoice | None:
        """How alpha is set; None: it is to be chosen on training problems from `settings.alpha_grid`."""
        return AlphaChoice()

    def default_alpha(self, layout: Layout) -> float:
        """What stands in for "auto" where there are too few problems to choose on."""
        return 1.0

    def control(self, adapter: Adapter, layout: Layout, seed: int) -> InitialState | None:
        """A random state to evaluate beside the tuned one, or None."""
        return None

    @abc.abstractmethod
    def fit(self, ctx: FitContext, sets: list[TrainingSet]) -> list[Adapter]:
        """One adapter per training set. Raises S0Error, ConfigError, ArchitectureError."""

    def joint_key(self) -> dict[str, Any] | None:
        """What methods of this kind must agree on for `fit_jointly` to learn in one batch what they learn, however else
        they differ (plain JSON types). None: a method is only ever fitted by itself."""
        return None

    def check(self, ctx: FitContext, one: TrainingSet) -> None:
        """Raise now what `fit` would raise for this set before its first step."""
        for e in one.examples:
            truncate(e, self.settings.max_length)

    @classmethod
    def fit_jointly(cls, ctx: FitContext, trainings: Sequence[Training]) -> list[Adapter]:
        """One adapter per training: what `fit` of its method would learn. The methods are one, or equal in `joint_key`."""
        (method,) = {id(m): m for m, _ in trainings}.values()
        return method.fit(ctx, [one for _, one in trainings])

    @abc.abstractmethod
    def load(self, ctx: FitContext, folder: Path) -> Adapter:
        """Read what `Adapter.save` wrote."""


#: a training set, and the method that learns from it
Training = tuple[Method, TrainingSet]


class JobMethod(Method):
    """A method whose trainings are jobs of `s0.training.fit.fit_states`, learned in one batch."""

    resumable = True

    @abc.abstractmethod
    def job(self, ctx: FitContext, one: TrainingSet) -> FitJob:
        """Raises ArchitectureError, ConfigError."""

    @abc.abstractmethod
    def adapter(self, ctx: FitContext, result: FitResult) -> Adapter: ...

    def through(self, ctx: FitContext) -> Callable[[dict[int, Tensor]], contextlib.AbstractContextManager[Any]] | None:
        """How the rows of a pass reach the model (see `fit_states`); equal for methods equal in `joint_key`."""
        return None

    def check(self, ctx: FitContext, one: TrainingSet) -> None:
        super().check(ctx, one)
        self.job(ctx, one)

    def fit(self, ctx: FitContext, sets: list[TrainingSet]) -> list[Adapter]:
        return self.fit_jointly(ctx, [(self, one) for one in sets])

    @classmethod
    def fit_jointly(cls, ctx: FitContext, trainings: Sequence[Training]) -> list[Adapter]:
        methods = [method for method, _ in trainings if isinstance(method, JobMethod)]
        jobs = [method.job(ctx, one) for method, (_, one) in zip(methods, trainings, strict=True)]
        results = fit_states(
            ctx.model,
            ctx.layout,
            jobs,
            token_budget=ctx.token_budget,
            checkpointing=ctx.checkpointing,
            progress=ctx.progress,
            resume=ctx.resume,
            on_step=ctx.on_step,
            through=methods[0].through(ctx) if methods else None,
        )
        return [method.adapter(ctx, r) for method, r in zip(methods, results, strict=True)]


@contextlib.contextmanager
def unchanged(model: Any) -> Iterator[Any]:
    yield model
