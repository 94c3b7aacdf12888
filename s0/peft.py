"""S0 as a PEFT method: get_peft_model(model, S0PeftConfig(task_type="CAUSAL_LM")).

Importing this module makes PEFT know the type "S0", so that `PeftModel.from_pretrained`, `load_adapter`, `set_adapter`,
`disable_adapter`, `save_pretrained`, `generate` and the transformers Trainer work as with any other method:

    import s0.peft
    model = get_peft_model(model, s0.peft.S0PeftConfig(task_type="CAUSAL_LM"))
    ...train...                                  # any loop; only the states are trainable
    state = s0.peft.initial_state(model)         # the InitialState of the active adapter

Several active adapters add up. There is nothing to merge: a state is not part of the weights. Written for peft 0.21,
whose registry takes a type of its own through its public mappings.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import importlib
import math
import runpy
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from s0.errors import ArchitectureError, ConfigError, S0Error
from s0.settings import shared
from s0.state import compat
from s0.state.cache import S0Cache, TrainingCache
from s0.state.families import Layout, describe
from s0.state.initial import InitialState
from s0.state.pads import check_continuation, exact_pads
from s0.storage.files import write_text
from s0.training.settings import StateUse

PREFIX = "s0_"

#: a saved adapter's README.md
CARD = """\
---
base_model: {base}
library_name: peft
tags: [s0, s0-tuning, initial-state]
---

# S0 adapter for {base}

One learned initial state per recurrent layer; the weights are unchanged. PEFT learns the type "S0" from an import, so
`import s0.peft` comes before anything that reads this folder:

```python
import s0.peft
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("THIS FOLDER")
```

Programs that load adapters by themselves are started through it:

    python -m s0.peft lm_eval --model hf --model_args pretrained={base},peft="THIS FOLDER" --tasks arc_easy
"""


def identity(layout: Layout) -> dict[str, Any]:
    """What an adapter's states fit: the family, its layers and shapes, and the width of the model."""
    return {
        "family": layout.family.name,
        "architecture": layout.architecture,
        "hidden_size": layout.hidden_size,
        "n_layers": int(layout.text_config.num_hidden_layers),
        "vocab_size": int(layout.text_config.vocab_size),
        "shapes": {str(i): list(shape) for i, shape in layout.shapes.items()},
    }


class S0PeftType(enum.StrEnum):
    """PEFT's own enumeration is closed; a string enumeration of one entry serves its mappings as well."""

    S0 = "S0"


@dataclass
class S0PeftConfig(PeftConfig):
    """Configuration of an S0 adapter.

    layers           recurrent layers to learn (None = all)
    alpha            factor at use time (None = default of the architecture)
    normalize        divide each layer's state by its Frobenius norm before alpha
    alpha_inside     also train through alpha (the paper's Algorithm 1); otherwise the unscaled state is trained and
                     alpha applies in eval mode only, as in the published runs
    init             "zero" (published), or "random": a small Gaussian, for models whose gradient at zero is tiny
    """

    layers: list[int] | None = field(default=None)
    alpha: float | None = shared(StateUse, "alpha")
    normalize: bool = shared(StateUse, "normalize")
    alpha_inside: bool = field(default=False)
    init: str = field(default="zero")
    #: refused: an S0 adapter learns states only
    modules_to_save: list[str] | None = field(default=None)
    #: filled in by the tuner: names of the recurrent mixers
    target_modules: list[str] | None = field(default=None)
    #: filled in by the tuner: what the states were made for (`identity`)
    made_for: dict[str, Any] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = S0PeftType.S0  # type: ignore[assignment]
        if self.init not in ("zero", "random"):
            raise ConfigError(f"S0PeftConfig.init={self.init!r}: must be zero or random")
        if self.alpha is not None and (isinstance(self.alpha, bool) or not math.isfinite(self.alpha)):
            raise ConfigError(f"S0PeftConfig.alpha={self.alpha!r}: must be a finite number, or None for the default")
        if self.modules_to_save:
            raise ConfigError(
                f"S0PeftConfig.modules_to_save={self.modules_to_save}: an S0 adapter learns states only; train those "
                "modules with a LoraConfig of their own"
            )

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write adapter_config.json, and a README.md that says how to load the adapter (in place of PEFT's template)."""
        super().save_pretrained(save_directory, **kwargs)
        write_text(Path(save_directory) / "README.md", CARD.format(base=self.base_model_name_or_path or "BASE MODEL"))


class _FreshLayer:
    """The cache as one mixer sees it at its first token: everything is the real cache's but the start of one layer."""

    def __init__(self, cache: Any, layer: int, start: Tensor, mixer: nn.Module):
        self._cache, self._layer, self.start = cache, layer, start
        if not compat.mixers_ask():
            held = cache.layers[layer]
            compat.open_window(held, mixer, start.shape[0])
            self.layers = compat.LayersView(cache.layers, layer, compat.LayerView(held, lambda: self.start))

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        if not compat.mixers_ask() and layer_idx in (None, self._layer) and not state_idx:
            return True
        return bool(self._cache.has_previous_state(layer_idx, state_idx))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        if layer_idx == self._layer and state_idx == 0:
            return self.start
        return self._cache.get_recurrent_state(layer_idx, state_idx)

    def scale_start(self, layer_idx: int, factor: Tensor) -> None:
        self.start = self.start * factor


class Start(nn.Module):
    """One adapter's state in one layer: `weight`, fp32 [*state shape]. A module of its own because the parameter's name then
    holds ".default.", the pattern by which TRL copies a policy's adapter into its reference."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)


class S0Layer(nn.Module, BaseTunerLayer):
    """A recurrent mixer that starts from the sum of its active adapters' states (fp32, [*state shape] each)."""

    adapter_layer_names = ("s0_state",)
    other_param_names = ("s0_config",)

    def __init__(self, mixer: nn.Module, layout: Layout, layer: int):
        super().__init__()
        self.base_layer = mixer
        self.s0_state = nn.ModuleDict()
        #: adapter of each batch row (None: its base model), while a call names them
        self._rows: list[str | None] | None = None
        self.s0_config: dict[str, S0PeftConfig] = {}
        self._layer = layer
        # a layout of this mixer alone: pads are closed layer by layer, and only while an adapter is active
        self._layout = dataclasses.replace(
            layout, layers=(layer,), shapes={layer: layout.shapes[layer]}, mixers={layer: mixer}
        )

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # adapters of the first format hold the tensor itself, under the adapter's name or (as newer PEFT hands it on) under
        # none: then it is meant for the adapter that was added last, for which PEFT loads
        for name in self.s0_state:
            if f"{prefix}s0_state.{name}" in state_dict:
                state_dict[f"{prefix}s0_state.{name}.weight"] = state_dict.pop(f"{prefix}s0_state.{name}")
        if f"{prefix}s0_state" in state_dict:
            latest = list(self.s0_state)[-1]
            state_dict[f"{prefix}s0_state.{latest}.weight"] = state_dict.pop(f"{prefix}s0_state")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def add(self, adapter_name: str, config: S0PeftConfig) -> None:
        shape = self._layout.shapes[self._layer]
        start = torch.zeros(shape, device=compat.device_of(self.base_layer))
        if config.init == "random":
            start.normal_(std=1e-3)
        self.s0_state[adapter_name] = Start(start)
        self.s0_config[adapter_name] = config

    def used(self) -> Tensor | None:
        """[1, *state shape] the sum of what the active adapters put in, or [rows, *state shape] where the call names an
        adapter per row; differentiable, None where none is active here."""
        if self.disable_adapters:
            return None
        if self._rows is not None:
            known = {name: self._put_in(name) for name in set(self._rows) if name is not None and name in self.s0_state}
            if not known:
                return None
            zero = torch.zeros_like(next(iter(known.values())))
            return torch.stack([known.get(name, zero) for name in self._rows])  # type: ignore[arg-type]
        active = [self._put_in(name) for name in self.active_adapters if name in self.s0_state]
        return torch.stack(active).sum(0)[None] if active else None

    def _put_in(self, name: str) -> Tensor:
        """[*state shape] what one adapter puts in."""
        config, state = self.s0_config[name], self.weight_of(name).float()
        if config.alpha_inside or not self.training:
            norm = state.norm()
            if config.normalize and bool(norm > 0):
                state = state / norm
            state = state * _alpha(config, self._layout)
        return state

    def weight_of(self, name: str) -> nn.Parameter:
        start = self.s0_state[name]
        assert isinstance(start, Start)
        return start.weight

    def forward(self, hidden_states: Tensor, *args: Any, **kw: Any) -> Any:
        used, layer = self.used(), self._layer
        if used is None:
            return self.base_layer(hidden_states, *args, **kw)
        given = cache = compat.passed_cache(args, kw, position=0)
        mask = kw.pop("attention_mask", args[1] if len(args) > 1 else None)
        kw = {name: value for name, value in kw.items() if name not in compat.CACHE_NAMES}
        check_continuation(cache, layer)
        held = _layer_of(cache, layer)
        batch, rows = hidden_states.shape[0], used.shape[0]
        if batch % rows:
            raise S0Error(f"adapter_names: {rows} names for a batch of {batch} rows; give one per prompt")
        start = used.repeat_interleave(batch // rows, 0)  # beams of a prompt stand together
        if held is None:
            cache = TrainingCache(self._layout, {layer: start})
        elif not isinstance(cache, (S0Cache, TrainingCache)) and not compat.has_seen_tokens(held):
            cache = _FreshLayer(cache, layer, start, self.base_layer)
        kw[self._layout.mixer_cache_argument] = cache
        with exact_pads(self._layout) if mask is not None else contextlib.nullcontext():
            out = self.base_layer(hidden_states, attention_mask=mask, **kw)
        if isinstance(cache, _FreshLayer) and not held.is_recurrent_states_initialized[0]:
            # one-token kernels update the start in place and leave the cache alone
            given.update_recurrent_state(cache.start.detach(), layer)
        return out


def _layer_of(cache: Any, layer: int) -> Any:
    if cache is None:
        return None
    held = cache.layers[layer] if layer < len(cache.layers) else None
    if held is None or not hasattr(held, "recurrent_states"):
        raise S0Error(
            f"past_key_values ({type(cache).__name__}): layer {layer} holds no recurrent state; "
            "build it with DynamicCache(config=model.config) or pass none"
        )
    return held


def _alpha(config: S0PeftConfig, layout: Layout) -> float:
    return layout.family.default_alpha if config.alpha is None else config.alpha


class S0Model(BaseTuner):
    """The tuner: wraps the recurrent mixers of the model in `S0Layer`.

    Raises ArchitectureError for models without recurrent layers S0 can start, ConfigError for layers that are none.
    """

    prefix = PREFIX
    tuner_layer_cls = S0Layer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012

    def _pre_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        self.layout = describe(model)

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        unknown = sorted(set(peft_config.layers or []) - set(self.layout.layers))
        if unknown or peft_config.layers == []:
            raise ConfigError(
                f"S0PeftConfig.layers={peft_config.layers}: {unknown or 'empty'}: choose among the recurrent layers "
                f"{list(self.layout.layers)}"
            )
        wanted = self.layout.layers if peft_config.layers is None else peft_config.layers
        mixers = {id(self.layout.mixers[i]) for i in wanted}
        names = [name for name, module in self.model.named_modules() if id(module) in mixers]
        targets = [name.removesuffix(".base_layer") for name in names]
        found, saved = identity(self.layout), peft_config.made_for
        if saved is not None and saved != found:
            wrong = next(key for key in found if saved.get(key) != found[key])
            raise ArchitectureError(
                f"adapter: made for {wrong} {saved.get(wrong)!r}, this model's is {found[wrong]!r}; "
                "load it into the model it was trained for"
            )
        if saved is None and peft_config.target_modules and set(peft_config.target_modules) != set(targets):
            raise ArchitectureError(
                f"adapter: made for the layers {', '.join(peft_config.target_modules)}, this model's are "
                f"{', '.join(targets)}; load it into the model it was trained for"
            )
        peft_config.target_modules, peft_config.made_for = targets, found
        alpha = _alpha(peft_config, self.layout)
        if not peft_config.inference_mode and not peft_config.alpha_inside and alpha != 1.0:
            warnings.warn(
                f"S0PeftConfig.alpha={alpha:g} applies in eval mode only, so an evaluation during training judges another "
                "model than the one trained; alpha=1.0 or alpha_inside=True makes them one",
                stacklevel=2,
            )
        return peft_config

    @contextlib.contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """`adapter_names=[...]` in a call: row r starts from adapter r; "__base__" is the model without any."""
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        unknown = sorted({str(n) for n in names} - {"__base__", *self.peft_config})
        if unknown or not names:
            raise ConfigError(
                f"adapter_names: {', '.join(unknown) or 'empty'}: choose among __base__, {', '.join(self.peft_config)}"
            )
        layers = [m for m in self.modules() if isinstance(m, S0Layer)]
        try:
            for layer in layers:
                layer._rows = [None if n == "__base__" else n for n in names]
            yield
        finally:
            for layer in layers:
                layer._rows = None

    def add_weighted_adapter(
        self, adapters: list[str], weights: list[float], adapter_name: str, combination_type: str = "linear", **kw: Any
    ) -> None:
        """A new adapter that puts in the weighted sum of others. Raises ConfigError for another combination than linear."""
        if combination_type != "linear" or kw:
            raise ConfigError(
                f"add_weighted_adapter: combination_type={combination_type!r} {kw or ''}: states are mixed linearly; "
                'give combination_type="linear" and no more'
            )
        if adapter_name in self.peft_config:
            raise ConfigError(f"adapter {adapter_name!r}: exists already; delete it first, or choose another name")
        mixed = InitialState.mix([initial_state(self, name) for name in adapters], weights)
        config = S0PeftConfig(
            task_type=self.peft_config[adapters[0]].task_type,
            layers=sorted(mixed.tensors),
            alpha=1.0,
            inference_mode=True,
        )
        self.peft_config[adapter_name] = config  # type: ignore[assignment]
        self.inject_adapter(self.model, adapter_name)
        set_initial_state(self, mixed, adapter_name)

    @staticmethod
    def _check_target_module_exists(peft_config: Any, key: str) -> bool:
        return key in peft_config.target_modules

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, S0Layer):
            target.add(adapter_name, peft_config)
            return
        wrapped = S0Layer(target, self.layout, int(target.layer_idx))  # type: ignore[arg-type]
        wrapped.add(adapter_name, peft_config)
        wrapped.train(target.training)
        setattr(parent, target_name, wrapped)

    def _replace_module(self, parent: Any, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # a mixer has no weight of its own, which is what PEFT's version would hand over
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        raise S0Error("merge: a state is not part of the weights; keep the adapter, or take it off with unload()")

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        self._check_merge_allowed()

    def _check_target_module_compatiblity(self, peft_config: Any, model: nn.Module, target_name: str) -> None:
        """PEFT refuses LoRA on some Mamba projections; that does not concern states."""


def _layers(model: nn.Module) -> dict[int, S0Layer]:
    found = {m._layer: m for m in model.modules() if isinstance(m, S0Layer)}
    if not found:
        raise S0Error(f"model {type(model).__name__}: has no S0 adapter; wrap it with get_peft_model first")
    return dict(sorted(found.items()))


def initial_state(model: nn.Module, adapter: str | None = None) -> InitialState:
    """The `InitialState` an adapter (default: the first active one) has learned; fits `S0Trainer`, engines and the Hub."""
    layers = _layers(model)
    name = adapter if adapter is not None else next(iter(next(iter(layers.values())).active_adapters), "")
    holding = {i: layer for i, layer in layers.items() if name in layer.s0_state}
    if not holding:
        known = sorted({n for layer in layers.values() for n in layer.s0_state})
        raise S0Error(f"adapter {name!r}: no such S0 adapter; choose among {', '.join(known)}")
    first = next(iter(holding.values()))
    config = first.s0_config[name]
    tensors = {i: layer.weight_of(name).detach() for i, layer in holding.items()}
    return InitialState(tensors, first._layout.architecture, _alpha(config, first._layout), config.normalize)


@torch.no_grad()
def set_initial_state(model: nn.Module, state: InitialState, adapter: str = "default") -> None:
    """Copy a state into an adapter that learns the same layers. Raises S0Error or ArchitectureError where it does not fit."""
    holding = {i: layer for i, layer in _layers(model).items() if adapter in layer.s0_state}
    if sorted(holding) != sorted(state.tensors):
        raise S0Error(
            f"adapter {adapter!r} learns layers {sorted(holding)}, the state has {sorted(state.tensors)}; "
            "create it with S0PeftConfig(layers=...) to match"
        )
    for i, layer in holding.items():
        state.replace(tensors={i: state.tensors[i]}).check(layer._layout)
        layer.weight_of(adapter).copy_(state.tensors[i])
        layer.s0_config[adapter].alpha, layer.s0_config[adapter].normalize = state.alpha, state.normalize


def l2_penalty(model: nn.Module) -> Tensor:
    """Sum over layers of ||S||^2 of the active adapters, differentiable: the loss adds 5e-4 times this (paper, section 3)."""
    terms = [
        layer.weight_of(name).square().sum()
        for layer in _layers(model).values()
        for name in layer.active_adapters
        if name in layer.s0_state
    ]
    return torch.stack([t.to(terms[0].device) for t in terms]).sum()


def _register() -> None:
    PEFT_TYPE_TO_CONFIG_MAPPING[S0PeftType.S0] = S0PeftConfig  # type: ignore[index]
    PEFT_TYPE_TO_TUNER_MAPPING[S0PeftType.S0] = S0Model  # type: ignore[index]
    PEFT_TYPE_TO_PREFIX_MAPPING[S0PeftType.S0] = PREFIX  # type: ignore[index]


if __name__ == "__main__":  # python -m s0.peft MODULE ...: a program that loads adapters by itself
    if len(sys.argv) < 2:
        sys.exit("usage: python -m s0.peft MODULE [arguments]: runs MODULE with the adapter type S0 known to PEFT")
    importlib.import_module("s0.peft")
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    _register()
