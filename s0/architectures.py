"""Which layers of a loaded model are recurrent, what their state looks like, and how a pad is made harmless there.

A family is one entry of `FAMILIES`, keyed by the class name of the recurrent mixer in transformers. Shapes always come
from the loaded modules, never from a table. Sources: the `modeling_*.py` file of each family; paper section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from s0.errors import ArchitectureError

#: added to a gate pre-activation at pads: softplus and sigmoid of it are exactly 0 in fp32, bf16 and fp16
CLOSED = -1.0e4


@dataclass(frozen=True)
class PadGate:
    """A projection whose output is rewritten at pads. `columns` selects gate pre-activations that are set to `CLOSED`
    (signed by `sign`); with `zero_rest` the other columns are set to 0 (a projection bias would leak through the conv)."""

    module: nn.Module
    columns: slice = field(default_factory=lambda: slice(None))
    zero_rest: bool = False
    sign: float = 1.0


@dataclass(frozen=True)
class Family:
    """One kind of recurrent mixer.

    name           transformers model type, as listed in the docs
    mixer          class name of the recurrent mixer module
    architecture   kind of recurrence, as saved in `meta.json` ("gated_delta_net", "mamba2", ...)
    state_shape    mixer -> shape of one row's state, in transformers' layout
    pad_gates      mixer -> projections to rewrite at pads so that a pad is an identity step (decay 1, write 0)
    default_alpha  scale of the learned state at use time (paper: 0.07 GatedDeltaNet, 0.65 Mamba-2)
    lora_targets   module names the published LoRA baseline adapts
    """

    name: str
    mixer: str
    architecture: str
    state_shape: Callable[[Any], tuple[int, ...]]
    pad_gates: Callable[[Any], list[PadGate]]
    default_alpha: float
    lora_targets: tuple[str, ...]
    #: mixer, config -> reason why padding cannot be exact for this very model, or None
    inexact: Callable[[Any], str | None] = lambda mixer: None


DEFAULT_ALPHA = {"gated_delta_net": 0.07, "mamba2": 0.65}
ATTENTION_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


def _gdn_shape(mixer: Any) -> tuple[int, ...]:
    return (mixer.num_v_heads, mixer.head_k_dim, mixer.head_v_dim)


def _gdn_split_gates(mixer: Any) -> list[PadGate]:
    """Decay and write strength come from two projections of their own (`in_proj_a`, `in_proj_b`)."""
    return [PadGate(mixer.in_proj_a), PadGate(mixer.in_proj_b)]


def _mamba2_shape(mixer: Any) -> tuple[int, ...]:
    return (mixer.num_heads, mixer.head_dim, mixer.ssm_state_size)


def _mamba2_gates(mixer: Any) -> list[PadGate]:
    """dt is the last `num_heads` columns of `in_proj`; dt = 0 gives decay 1 and writes 0."""
    multiplier = getattr(mixer, "mup_vector", None)
    sign = 1.0
    if multiplier is not None:
        scale = float(multiplier.flatten()[-1])
        sign = 1.0 / scale if scale else 1.0
    return [PadGate(mixer.in_proj, columns=slice(-mixer.num_heads, None), zero_rest=True, sign=sign)]


def _mamba2_inexact(mixer: Any) -> str | None:
    low = getattr(mixer, "time_step_limit", (0.0, float("inf")))[0]
    if low > 0:
        return f"time_step_limit[0]={low} > 0: a pad cannot be made an identity step"
    return None


def _mamba2(name: str, mixer: str, lora: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "in_proj")) -> Family:
    return Family(name, mixer, "mamba2", _mamba2_shape, _mamba2_gates, DEFAULT_ALPHA["mamba2"], lora, _mamba2_inexact)


FAMILIES: dict[str, Family] = {
    f.mixer: f
    for f in (
        Family(
            "qwen3_5",
            "Qwen3_5GatedDeltaNet",
            "gated_delta_net",
            _gdn_shape,
            _gdn_split_gates,
            DEFAULT_ALPHA["gated_delta_net"],
            ATTENTION_TARGETS,
        ),
        _mamba2("falcon_h1", "FalconH1Mixer"),
    )
}

#: recurrent mixers that exist in transformers but take no initial state, with the reason shown to the user
REFUSED: dict[str, str] = dict.fromkeys(
    ("MambaMixer", "FalconMambaMixer", "JambaMambaMixer", "ZambaMambaMixer"),
    "Mamba-1: its selective scan takes no initial state in transformers",
)


@dataclass(frozen=True)
class Layout:
    """What S0 needs to know about a loaded model; made by `describe`."""

    family: Family
    layers: tuple[int, ...]
    shapes: dict[int, tuple[int, ...]]
    mixers: dict[int, nn.Module]
    #: dotted name of the text backbone inside the model ("model", "model.language_model", ...)
    text_model_name: str
    text_model: nn.Module
    text_config: Any
    hidden_size: int

    @property
    def architecture(self) -> str:
        return self.family.architecture

    def n_parameters(self) -> int:
        """Number of floats in one full state."""
        return sum(_numel(s) for s in self.shapes.values())

    def bytes_per_row(self) -> int:
        """Bytes of one row's fp32 state over all recurrent layers."""
        return 4 * self.n_parameters()


def _numel(shape: tuple[int, ...]) -> int:
    n = 1
    for s in shape:
        n *= s
    return n


def describe(model: nn.Module) -> Layout:
    """Find the recurrent layers of `model` (a transformers causal LM, plain or inside a multimodal or PEFT wrapper).

    Raises ArchitectureError, naming the model class and the reason, for models without recurrent layers, Mamba-1
    models, and mixers no family entry covers.
    """
    mixers: dict[int, nn.Module] = {}
    family: Family | None = None
    prefix = ""
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind in REFUSED:
            raise ArchitectureError(
                f"model {type(model).__name__}: layer {name} is {kind} ({REFUSED[kind]}); "
                f"use a model of a supported family: {', '.join(sorted(f.name for f in FAMILIES.values()))}"
            )
        if kind in FAMILIES and hasattr(module, "layer_idx"):
            if family is not None and FAMILIES[kind] is not family:
                raise ArchitectureError(
                    f"model {type(model).__name__}: mixes {family.mixer} and {kind}; one kind of recurrence is supported"
                )
            family = FAMILIES[kind]
            if int(module.layer_idx) not in mixers:
                mixers[int(module.layer_idx)] = module
                prefix = name.rsplit(".layers.", 1)[0] if ".layers." in name else ""
    if family is None:
        raise ArchitectureError(
            f"model {type(model).__name__}: no recurrent layer whose state S0 could start "
            f"(a pure Transformer has none); use a model of a supported family: "
            f"{', '.join(sorted(f.name for f in FAMILIES.values()))}"
        )
    layers = tuple(sorted(mixers))
    text_model = model.get_submodule(prefix)
    config = model.config.get_text_config(decoder=True)  # type: ignore[union-attr,operator]
    for mixer in mixers.values():
        if reason := family.inexact(mixer):
            raise ArchitectureError(f"model {type(model).__name__}: {reason}; this model is not supported")
    return Layout(
        family=family,
        layers=layers,
        shapes={i: tuple(family.state_shape(mixers[i])) for i in layers},
        mixers={i: mixers[i] for i in layers},
        text_model_name=prefix,
        text_model=text_model,
        text_config=config,
        hidden_size=int(config.hidden_size),
    )


def device_of_layer(mixer: nn.Module) -> torch.device:
    """Device a layer's state must live on (layers may be spread by `device_map`)."""
    return next(mixer.parameters()).device
