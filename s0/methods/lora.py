"""LoRA (Hu et al. 2021) through peft: the weight-space baseline, trained on the same examples as S0.

Published: rank 24 (also 48 and 64), lora_alpha = 2 x rank, 50 steps of Adam; {q,k,v,o}_proj of the attention layers of
Qwen, {q,k,v,in}_proj of Falcon-H1. Adapters are stored in peft's own form. Applying one merges it into the weights for
the duration of a context (no cost per token) and puts the original weights back bit for bit.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
from torch import Tensor, nn

from s0.config.schema import LoraMethod
from s0.errors import ArchitectureError, ConfigError, StoreError
from s0.methods.base import Adapter, CostClass, Method
from s0.state.families import ATTENTION_TARGETS
from s0.storage.files import atomic_path, write_json
from s0.training.jobs import Curve, FitContext, TrainingSet
from s0.training.loop import Trainee, text_model, train_each, zero_state

_PREFIX = "base_model.model."


def target_modules(ctx: FitContext, names: list[str] | None = None) -> list[str]:
    """Full names of the linear layers LoRA adapts: `names`, or the family's published targets, inside the text model.

    Raises ConfigError naming the linear layers there are when a name matches none.
    """
    wanted = names or list(ctx.layout.family.lora_targets if ctx.layout is not None else ATTENTION_TARGETS)
    inside = {id(m) for m in text_model(ctx).modules()}
    linear = [n for n, m in ctx.model.named_modules() if isinstance(m, nn.Linear) and id(m) in inside]
    chosen = [n for n in linear if n.rsplit(".", 1)[-1] in wanted]
    found = {n.rsplit(".", 1)[-1] for n in chosen}
    missing = sorted(set(wanted) - found)
    # a family's list may name projections this very model lacks; a list the user wrote must match
    if not chosen or (names and missing):
        there = sorted({n.rsplit(".", 1)[-1] for n in linear})
        raise ConfigError(
            f"method.targets: no linear layer called {', '.join(missing)}; choose among {', '.join(there)}"
        )
    return chosen


def parameters_per_rank(model: nn.Module, modules: list[str]) -> int:
    """Trainable floats of rank-1 LoRA: inputs + outputs of every adapted layer."""
    weights: list[Any] = [model.get_submodule(n).weight for n in modules]
    return sum(w.shape[0] + w.shape[1] for w in weights)


def resolve_rank(ctx: FitContext, rank: Any, modules: list[str]) -> int:
    """An integer as it is; "match" is the rank whose parameter count is nearest to the size of a full S0 state."""
    if rank != "match":
        return int(rank)
    if ctx.layout is None:
        raise ConfigError("method.rank=match: the model has no recurrent state to match; give an integer")
    return max(1, round(ctx.layout.n_parameters() / parameters_per_rank(ctx.model, modules)))


class LoraAdapter(Adapter):
    """tensors: peft's names ("base_model.model.<layer>.lora_A.weight" [rank, in], "...lora_B.weight" [out, rank])."""

    def __init__(self, tensors: dict[str, Tensor], rank: int, lora_alpha: float, merge: bool, curve: Curve):
        self.tensors = {k: t.detach().cpu().float().contiguous() for k, t in sorted(tensors.items())}
        self.rank, self.lora_alpha, self.merge, self.curve = rank, lora_alpha, merge, curve
        self.trainable_params = sum(t.numel() for t in self.tensors.values())

    @property
    def use(self) -> Any:
        return {"merge": self.merge}

    @property
    def modules(self) -> list[str]:
        end = ".lora_A.weight"
        return [k.removeprefix(_PREFIX).removesuffix(end) for k in self.tensors if k.endswith(end)]

    def factors(self, module: str) -> tuple[Tensor, Tensor]:
        return tuple(self.tensors[f"{_PREFIX}{module}.lora_{x}.weight"] for x in "AB")  # type: ignore[return-value]

    def check(self, model: nn.Module) -> None:
        """Raise ArchitectureError unless every adapted layer exists with the right shape."""
        for name in self.modules:
            a, b = self.factors(name)
            try:
                shape = tuple(model.get_submodule(name).weight.shape)  # type: ignore[arg-type,union-attr]
            except AttributeError:
                shape = None
            if shape != (b.shape[0], a.shape[1]):
                raise ArchitectureError(
                    f"lora: layer {name} needs a weight of {(b.shape[0], a.shape[1])}, the model has {shape}; "
                    "fit it on this model"
                )

    @contextlib.contextmanager
    def applied(self, model: Any) -> Iterator[Any]:
        self.check(model)
        if not self.merge:
            with attached(model, self.modules, self.rank, self.lora_alpha, self.tensors):
                yield model
            return
        kept: list[tuple[nn.Parameter, Tensor]] = []
        try:
            with torch.no_grad():
                for name in self.modules:
                    weight = model.get_submodule(name).weight
                    a, b = (t.to(weight.device) for t in self.factors(name))
                    kept.append((weight, weight.detach().clone()))
                    weight.copy_(weight.float() + self.lora_alpha / self.rank * (b @ a))
            yield model
        finally:
            with torch.no_grad():
                for weight, original in kept:
                    weight.copy_(original)

    def save(self, folder: Path) -> None:
        folder = Path(folder)
        with atomic_path(folder / "adapter_model.safetensors") as path:
            safetensors.torch.save_file(self.tensors, str(path))
        write_json(folder / "adapter_config.json", _config(self.modules, self.rank, self.lora_alpha).to_dict())
        write_json(folder / "training.json", self.curve.to_json())


def _config(modules: list[str], rank: int, lora_alpha: float) -> Any:
    from peft import LoraConfig

    scale: Any = int(lora_alpha) if lora_alpha == int(lora_alpha) else lora_alpha
    config = LoraConfig(
        r=rank, lora_alpha=scale, lora_dropout=0.0, bias="none", target_modules=modules, task_type="CAUSAL_LM"
    )
    config.target_modules = sorted(modules)  # peft makes it a set, which has no JSON form and no order
    return config


@contextlib.contextmanager
def attached(
    model: Any, modules: list[str], rank: int, lora_alpha: float, tensors: dict[str, Tensor] | None = None
) -> Iterator[Any]:
    """Context in which peft's LoRA layers stand in `model` (in place), yielding peft's wrapper; afterwards the model's own
    layers are back. Raises ConfigError for layers peft refuses."""
    from peft import get_peft_model, set_peft_model_state_dict

    flags = [(p, p.requires_grad) for p in model.parameters()]
    training = model.training
    try:
        try:
            wrapped = get_peft_model(model, _config(modules, rank, lora_alpha))
        except ValueError as error:
            raise ConfigError(f"method.targets: {str(error).splitlines()[0]}") from error
        if tensors is not None:
            set_peft_model_state_dict(wrapped, dict(tensors))
        wrapped.train(training)
        yield wrapped
    finally:
        _detach(model)
        for p, flag in flags:
            p.requires_grad_(flag)


def _detach(model: nn.Module) -> None:
    """Put the original layers back, also after an injection that failed half way."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    for leftover in ("peft_config", "_hf_peft_config_loaded"):
        model.__dict__.pop(leftover, None)


class Lora(Method):
    name = "lora"
    settings: LoraMethod
    inference_cost: ClassVar[CostClass] = "merge"
    resumable = True

    def label(self) -> str:
        s = self.settings
        rank = "_match" if s.rank == "match" else f"_r{s.rank}"
        return f"lora{rank}" + (f"_n{s.n_solutions}" if s.n_solutions else "")

    def use_only(self) -> tuple[str, ...]:
        """Merging is a matter of use: one training serves both."""
        return ("merge",)

    def _merge(self) -> bool:
        return self.settings.merge is not False

    def check(self, ctx: FitContext, one: TrainingSet) -> None:
        super().check(ctx, one)
        resolve_rank(ctx, self.settings.rank, target_modules(ctx, self.settings.targets))

    def fit(self, ctx: FitContext, sets: list[TrainingSet]) -> list[Adapter]:
        from peft import get_peft_model_state_dict

        s = self.settings
        modules = target_modules(ctx, s.targets)
        rank = resolve_rank(ctx, s.rank, modules)
        lora_alpha = 2.0 * rank if s.lora_alpha is None else float(s.lora_alpha)

        @contextlib.contextmanager
        def open_trainee(seed: int) -> Iterator[Trainee]:
            devices = sorted({p.device.index or 0 for p in ctx.model.parameters() if p.device.type == "cuda"})
            with contextlib.ExitStack() as stack:
                with torch.random.fork_rng(devices=devices):
                    torch.manual_seed(seed)
                    wrapped = stack.enter_context(attached(ctx.model, modules, rank, lora_alpha))

                def result() -> dict[str, Tensor]:
                    return {k: t.detach().cpu().float().clone() for k, t in get_peft_model_state_dict(wrapped).items()}

                params = [p for p in wrapped.parameters() if p.requires_grad]
                yield Trainee(params, result, zero_state(ctx))

        done = train_each(ctx, sets, s, open_trainee)
        return [LoraAdapter(tensors, rank, lora_alpha, self._merge(), curve) for tensors, curve in done]

    def load(self, ctx: FitContext, folder: Path) -> Adapter:
        folder = Path(folder)
        try:
            config = json.loads((folder / "adapter_config.json").read_text())
            data = json.loads((folder / "training.json").read_text())
            tensors = safetensors.torch.load_file(str(folder / "adapter_model.safetensors"))
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise StoreError(f"lora in {folder}: cannot be read ({error}); delete the folder and fit again") from error
        curve = Curve.from_json(data)
        adapter = LoraAdapter(tensors, config["r"], config["lora_alpha"], self._merge(), curve)
        adapter.check(ctx.model)
        return adapter
