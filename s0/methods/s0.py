"""S0 tuning: learn the state the recurrent layers start from (paper, section 3 and Algorithm 1)."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, ClassVar

import torch

from s0.config.schema import S0Method
from s0.errors import ArchitectureError, ConfigError
from s0.methods.base import Adapter, AlphaChoice, CostClass, JobMethod
from s0.state.cache import S0Cache
from s0.state.families import Layout, describe
from s0.state.initial import InitialState
from s0.state.inject import Injection
from s0.storage.files import write_json
from s0.training.jobs import Curve, FitConfig, FitContext, FitJob, FitResult, TrainingSet


def choose_layers(layout: Layout, wanted: Any) -> tuple[int, ...]:
    """Recurrent layers by name (thirds in depth: early, middle, late) or by index. Raises ConfigError.

    The first third gets the remainder, so that 24 layers split 8/8/8 as in the paper (Table 5).
    """
    layers = layout.layers
    if wanted in (None, "all"):
        return layers
    if isinstance(wanted, str):
        third = -(-len(layers) // 3)
        cuts = {"early": layers[:third], "middle": layers[third : 2 * third], "late": layers[2 * third :]}
        if wanted not in cuts:
            raise ConfigError(f"method.layers={wanted!r}: must be all, early, middle, late or a list of layer indices")
        if not cuts[wanted]:
            raise ConfigError(f"method.layers={wanted}: the model has only {len(layers)} recurrent layers; use a list")
        return cuts[wanted]
    unknown = sorted(set(wanted) - set(layers))
    if unknown:
        raise ConfigError(f"method.layers={list(wanted)}: {unknown} are not recurrent; choose among {list(layers)}")
    return tuple(sorted(wanted))


@torch.no_grad()
def state_after(model: Any, tokenizer: Any, layout: Layout, text: str) -> InitialState:
    """The recurrent state after reading `text` from zero: a natural place to start from."""
    ids = tokenizer.encode(text)
    if not ids:
        raise ConfigError("method.init_prompt: encodes to no token; give some text or null")
    cache = S0Cache(layout, {})
    on_device = torch.tensor([ids], device=next(model.parameters()).device)
    model(input_ids=on_device, use_cache=True, **{layout.cache_argument: cache})
    layers: Any = cache.layers
    tensors = {i: layers[i].recurrent_states[0][0].float() for i in layout.layers}
    return InitialState(tensors, layout.architecture)


#: control states have seeds of their own
CONTROL_SEED = 7_919


class S0Adapter(Adapter):
    def __init__(self, state: InitialState, trainable_params: int, curve: Curve | None = None):
        self._state, self.trainable_params, self.curve = state, trainable_params, curve or Curve()

    @property
    def state(self) -> InitialState:
        return self._state

    def at(self, alpha: float | None, settings: S0Method) -> S0Adapter:
        assert alpha is not None
        state = self._state.replace(alpha=alpha, normalize=settings.normalize)
        return S0Adapter(state, self.trainable_params, self.curve)

    @contextlib.contextmanager
    def applied(self, model: Any) -> Any:
        with Injection(model, describe(model), self._state):
            yield model

    def save(self, folder: Path) -> None:
        self._state.save(folder)
        write_json(
            folder / "training.json",
            {**self.curve.to_json(), "trainable_params": self.trainable_params},
        )


class S0(JobMethod):
    name = "s0"
    settings: S0Method
    has_alpha = True
    inference_cost: ClassVar[CostClass] = "none"

    def label(self) -> str:
        s = self.settings
        parts = ["s0"]
        if s.layers not in (None, "all"):
            parts.append(s.layers if isinstance(s.layers, str) else "layers" + "-".join(map(str, s.layers)))
        if s.rank:
            parts.append(f"rank{s.rank}")
        if s.n_solutions:
            parts.append(f"n{s.n_solutions}")
        if s.normalize:
            parts.append("normalized")
        if s.alpha_placement == "inside":
            parts.append("inside")
        if s.init_prompt:
            parts.append("init")
        return "_".join(parts)

    def use_only(self) -> tuple[str, ...]:
        """Scaled after training, one training serves every alpha; inside training, alpha and normalize matter."""
        always = ("alpha_grid", "control")
        after = ("alpha", "normalize", "alpha_placement")
        return always if self.settings.alpha_placement == "inside" else (*always, *after)

    def joint_key(self) -> dict[str, Any]:
        return {"n_steps": self.settings.n_steps, "rank": self.settings.rank or 0, "optimizer": self.settings.optimizer}

    def alpha(self, layout: Layout) -> AlphaChoice | None:
        """The configured alpha, or the architecture's default for null."""
        value = self.settings.alpha
        if value == "auto":
            return None
        if value is None:
            return AlphaChoice(self.default_alpha(layout), "architecture default")
        return AlphaChoice(float(value), "config")

    def default_alpha(self, layout: Layout) -> float:
        return float(layout.family.default_alpha)

    def control(self, adapter: Adapter, layout: Layout, seed: int) -> InitialState | None:
        """A random state of the tuned one's norm per layer, alpha and normalisation."""
        state = adapter.state
        if not self.settings.control or state is None:
            return None
        return InitialState.random(
            layout, state.norms(), seed + CONTROL_SEED, alpha=state.alpha, normalize=state.normalize
        )

    def job(self, ctx: FitContext, one: TrainingSet) -> FitJob:
        if ctx.layout is None:
            raise ArchitectureError(
                f"model {type(ctx.model).__name__}: no recurrent layer whose state S0 could start; use method=lora or prefix"
            )
        s = self.settings
        inside = s.alpha_placement == "inside"
        choice = self.alpha(ctx.layout) if inside else None
        alpha = choice.alpha if choice else None
        layers = choose_layers(ctx.layout, s.layers)
        config = FitConfig(
            n_steps=s.n_steps,
            lr=s.lr,
            l2_lambda=s.l2_lambda,
            grad_clip=s.grad_clip,
            max_length=s.max_length,
            layers=layers,
            alpha=1.0 if alpha is None else alpha,
            alpha_inside=inside,
            normalize=bool(s.normalize) and inside,
            rank=s.rank or 0,
            seed=one.seed,
            optimizer=s.optimizer,
        )
        init = state_after(ctx.model, ctx.tokenizer, ctx.layout, s.init_prompt) if s.init_prompt else None
        return FitJob(one.examples, config, init)

    def adapter(self, ctx: FitContext, result: FitResult) -> S0Adapter:
        return S0Adapter(result.state, self._count(result.state), Curve.of(result))

    def _count(self, state: InitialState) -> int:
        rank = self.settings.rank or 0
        if not rank:
            return sum(t.numel() for t in state.tensors.values())
        return sum(rank * t.shape[0] * (t.shape[1] + t.shape[2]) for t in state.tensors.values())

    def load(self, ctx: FitContext, folder: Path) -> Adapter:
        state = InitialState.load(folder, ctx.layout)
        data = json.loads((folder / "training.json").read_text())
        return S0Adapter(state, data["trainable_params"], Curve.from_json(data))
