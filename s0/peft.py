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
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from s0.errors import ConfigError, S0Error
from s0.state.cache import S0Cache, TrainingCache
from s0.state.families import Layout, describe
from s0.state.initial import InitialState
from s0.state.pads import check_continuation, exact_pads

PREFIX = "s0_"


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
    alpha: float | None = field(default=None)
    normalize: bool = field(default=False)
    alpha_inside: bool = field(default=False)
    init: str = field(default="zero")
    #: filled in by the tuner: names of the recurrent mixers
    target_modules: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = S0PeftType.S0  # type: ignore[assignment]
        if self.init not in ("zero", "random"):
            raise ConfigError(f"S0PeftConfig.init={self.init!r}: must be zero or random")


class _FreshLayer:
    """The cache as one mixer sees it at its first token: everything is the real cache's but the start of one layer."""

    def __init__(self, cache: Any, layer: int, start: Tensor):
        self._cache, self._layer, self.start = cache, layer, start

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        if layer_idx == self._layer and state_idx == 0:
            return self.start
        return self._cache.get_recurrent_state(layer_idx, state_idx)

    def scale_start(self, layer_idx: int, factor: Tensor) -> None:
        self.start = self.start * factor


class S0Layer(nn.Module, BaseTunerLayer):
    """A recurrent mixer that starts from the sum of its active adapters' states (fp32, [*state shape] each)."""

    adapter_layer_names = ("s0_state",)
    other_param_names = ("s0_config",)

    def __init__(self, mixer: nn.Module, layout: Layout, layer: int):
        super().__init__()
        self.base_layer = mixer
        self.s0_state = nn.ParameterDict()
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

    def add(self, adapter_name: str, config: S0PeftConfig) -> None:
        shape = self._layout.shapes[self._layer]
        device = next(self.base_layer.parameters()).device
        start = torch.zeros(shape, device=device)
        if config.init == "random":
            start.normal_(std=1e-3)
        self.s0_state[adapter_name] = nn.Parameter(start)
        self.s0_config[adapter_name] = config

    def used(self) -> Tensor | None:
        """[*state shape] the sum of what the active adapters put in, differentiable; None where none is active here."""
        total: Tensor | None = None
        for name in self.active_adapters:
            if name not in self.s0_state or self.disable_adapters:
                continue
            config, state = self.s0_config[name], self.s0_state[name].float()
            if config.alpha_inside or not self.training:
                norm = state.norm()
                if config.normalize and bool(norm > 0):
                    state = state / norm
                state = state * _alpha(config, self._layout)
            total = state if total is None else total + state
        return total

    def forward(self, hidden_states: Tensor, cache_params: Any = None, attention_mask: Any = None, **kw: Any) -> Any:
        used, layer = self.used(), self._layer
        if used is None:
            return self.base_layer(hidden_states, cache_params=cache_params, attention_mask=attention_mask, **kw)
        check_continuation(cache_params, layer)
        cache = cache_params
        held: Any = cache.layers[layer] if cache is not None else None
        if held is None:
            start = used.expand(hidden_states.shape[0], *used.shape).contiguous()
            cache = TrainingCache(self._layout, {layer: start})
        elif not isinstance(cache, (S0Cache, TrainingCache)) and not held.has_previous_state[0]:
            start = used.expand(hidden_states.shape[0], *used.shape).clone()
            cache = _FreshLayer(cache, layer, start)
        with exact_pads(self._layout) if attention_mask is not None else contextlib.nullcontext():
            out = self.base_layer(hidden_states, cache_params=cache, attention_mask=attention_mask, **kw)
        if isinstance(cache, _FreshLayer) and not held.is_recurrent_states_initialized[0]:
            # one-token kernels update the start in place and leave the cache alone
            cache_params.update_recurrent_state(cache.start.detach(), layer)
        return out


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
        peft_config.target_modules = [name.removesuffix(".base_layer") for name in names]
        return peft_config

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
    tensors = {i: layer.s0_state[name].detach() for i, layer in holding.items()}
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
        layer.s0_state[adapter].copy_(state.tensors[i])
        layer.s0_config[adapter].alpha, layer.s0_config[adapter].normalize = state.alpha, state.normalize


def l2_penalty(model: nn.Module) -> Tensor:
    """Sum over layers of ||S||^2 of the active adapters, differentiable: the loss adds 5e-4 times this (paper, section 3)."""
    terms = [
        layer.s0_state[name].square().sum()
        for layer in _layers(model).values()
        for name in layer.active_adapters
        if name in layer.s0_state
    ]
    return torch.stack([t.to(terms[0].device) for t in terms]).sum()


PEFT_TYPE_TO_CONFIG_MAPPING[S0PeftType.S0] = S0PeftConfig  # type: ignore[index]
PEFT_TYPE_TO_TUNER_MAPPING[S0PeftType.S0] = S0Model  # type: ignore[index]
PEFT_TYPE_TO_PREFIX_MAPPING[S0PeftType.S0] = PREFIX  # type: ignore[index]
