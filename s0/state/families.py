"""Which layers of a loaded model are recurrent, what their state looks like, and how a pad is made harmless there.

A family is one entry of `FAMILIES`, keyed by the class name of the recurrent mixer in transformers. Shapes always come
from the loaded modules, never from a table. Sources: the `modeling_*.py` file of each family; paper section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from s0.errors import ArchitectureError
from s0.state import compat
from s0.state.recurrences import (
    GATED_DELTA_NET,
    KIMI,
    MAMBA2,
    DecayReader,
    Recurrence,
    delta_decay,
    grouped_decay_columns,
)

#: what a gate pre-activation is set to at pads: softplus and sigmoid of it are exactly 0 in fp32, bf16 and fp16
CLOSED = -1.0e4


@dataclass(frozen=True)
class PadGate:
    """A projection whose output is rewritten at pads. `columns` selects gate pre-activations that are set to `CLOSED`
    (divided by `scale`, a factor the mixer applies afterwards); with `zero_rest` the other columns are set to 0 (a
    projection bias would leak through the convolution)."""

    module: nn.Module
    columns: slice = field(default_factory=lambda: slice(None))
    zero_rest: bool = False
    scale: float = 1.0


@dataclass(frozen=True)
class EngineLayouts:
    """How other inference engines hold this family's state, for whoever hands them one: "same" (transformers' axes),
    "transposed" (last two axes swapped), "tiled, transposed" (value heads reordered from groups of one key head to one of
    every group, then swapped), or "unknown" where nobody has compared states. vLLM: the slot of its CUDA kernels."""

    vllm: str = "unknown"
    llama_cpp: str = "unknown"
    mlx: str = "unknown"


@dataclass(frozen=True)
class Family:
    """One kind of recurrent mixer.

    name           transformers model type, as listed in docs/families.md
    mixer          class name of the recurrent mixer module
    recurrence     its kind: state shape, default alpha, kernels, what a write is (s0.state.recurrences)
    pad_gates      mixer -> projections to rewrite at pads so that a pad is an identity step (decay 1, write 0)
    lora_targets   module names the LoRA baseline adapts (published for qwen3_5 and falcon_h1, by analogy elsewhere)
    decay          mixer -> decay projection and what turns its output into the log decay
    engines        how other engines lay out this family's state
    pad_decay      mixer -> log decay [heads] that a pad still causes with closed gates, or None where it causes none;
                   S0 is scaled up by its inverse beforehand (`s0.state.pads.exact_pads`)
    padding_refused  mixer -> reason why a padded batch of this very model cannot be exact, or None
    """

    name: str
    mixer: str
    recurrence: Recurrence
    pad_gates: Callable[[Any], list[PadGate]]
    lora_targets: tuple[str, ...]
    decay: Callable[[Any], DecayReader]
    engines: EngineLayouts = EngineLayouts()
    pad_decay: Callable[[Any], Tensor | None] = lambda mixer: None
    padding_refused: Callable[[Any], str | None] = lambda mixer: None

    def __reduce__(self) -> Any:
        if FAMILIES.get(self.mixer) is not self:
            return super().__reduce__()
        return _family, (self.mixer,)  # its functions cannot be pickled, and there is one of each family

    @property
    def architecture(self) -> str:
        """Kind of recurrence, as saved in `meta.json` ("gated_delta_net", "mamba2", "kimi_delta_attention")."""
        return self.recurrence.name

    @property
    def default_alpha(self) -> float:
        """Scale of the learned state at use time."""
        return self.recurrence.default_alpha

    def state_shape(self, mixer: Any) -> tuple[int, ...]:
        """Shape of one row's state, in transformers' layout."""
        return self.recurrence.state_shape(mixer)


ATTENTION_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
MAMBA2_TARGETS = ("q_proj", "k_proj", "v_proj", "in_proj")
#: latent attention has low-rank query and key-value projections
LATENT_TARGETS = ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")


def _closed(*names: str) -> Callable[[Any], list[PadGate]]:
    """Projections (dotted names inside the mixer) that carry nothing but gates: decay and write strength."""
    return lambda mixer: [PadGate(mixer.get_submodule(name)) for name in names]


def _mamba2_gates(mixer: Any) -> list[PadGate]:
    """dt is the last `num_heads` columns of `in_proj`; dt = 0 gives decay 1 and writes 0."""
    multiplier = getattr(mixer, "mup_vector", None)
    scale = 1.0 if multiplier is None else float(multiplier.flatten()[-1])
    return [PadGate(mixer.in_proj, columns=slice(-mixer.num_heads, None), zero_rest=True, scale=scale or 1.0)]


def _mamba2_pad_decay(mixer: Any) -> Tensor | None:
    """A lower limit on dt (`time_step_limit`) makes every pad decay by exp(-A * limit), whatever its gate."""
    low = float(getattr(mixer, "time_step_limit", (0.0,))[0])
    return -low * mixer.A_log.detach().float().exp() if low > 0 else None


def _delta(name: str, mixer: str, a: str, b: str, engines: EngineLayouts, decay: Any = None) -> Family:
    """`a`, `b`: projections of the decay and of the write strength (the same one where they are projected together)."""
    gates = _closed(*dict.fromkeys((a, b)))
    return Family(name, mixer, GATED_DELTA_NET, gates, ATTENTION_TARGETS, decay or delta_decay(a), engines)


def _kimi(name: str, mixer: str, *gates: str) -> Family:
    return Family(name, mixer, KIMI, _closed(*gates), LATENT_TARGETS, KIMI.decay)


def _mamba2(name: str, mixer: str, llama_cpp: str = "same", lora: tuple[str, ...] = MAMBA2_TARGETS) -> Family:
    engines = EngineLayouts(vllm="same", llama_cpp=llama_cpp, mlx="same")
    return Family(name, mixer, MAMBA2, _mamba2_gates, lora, MAMBA2.decay, engines, _mamba2_pad_decay)


_SWAPPED = EngineLayouts(vllm="transposed", llama_cpp="transposed", mlx="transposed")
_TILED = EngineLayouts(vllm="transposed", llama_cpp="tiled, transposed", mlx="transposed")
_OLMO = EngineLayouts(vllm="transposed", mlx="transposed")

FAMILIES: dict[str, Family] = {
    f.mixer: f
    for f in (
        _delta("qwen3_5", "Qwen3_5GatedDeltaNet", "in_proj_a", "in_proj_b", _TILED),
        _delta("qwen3_5_moe", "Qwen3_5MoeGatedDeltaNet", "in_proj_a", "in_proj_b", _TILED),
        _delta(
            "qwen3_next",
            "Qwen3NextGatedDeltaNet",
            "in_proj_ba",
            "in_proj_ba",
            _SWAPPED,
            delta_decay("in_proj_ba", grouped_decay_columns),
        ),
        _delta("qwen4_exp", "Qwen4ExpTextGatedDeltaNet", "in_proj_a", "in_proj_b", _TILED),
        _delta("lara_mini", "LaraMiniGatedDeltaNet", "in_proj_a", "in_proj_b", EngineLayouts()),
        _delta("olmo_hybrid", "OlmoHybridGatedDeltaNet", "a_proj", "b_proj", _OLMO),
        _kimi("kimi_linear", "KimiLinearDeltaAttention", "forget_gate.f_b_proj", "b_proj"),
        _kimi("bailing_hybrid", "BailingHybridDeltaAttention", "forget_gate.f_proj", "b_proj"),
        _kimi("glm5_next", "Glm5NextTextLinearAttention", "forget_gate.f_b_proj", "b_proj"),
        _mamba2("falcon_h1", "FalconH1Mixer"),
        _mamba2("bamba", "BambaMixer"),
        _mamba2("granitemoehybrid", "GraniteMoeHybridMambaLayer"),
        _mamba2("nemotron_h", "NemotronHMamba2Mixer"),
        _mamba2("zamba2", "Zamba2MambaMixer", llama_cpp="unknown"),
        _mamba2("mamba2", "Mamba2Mixer", lora=("in_proj",)),
    )
}


def _family(mixer: str) -> Family:
    return FAMILIES[mixer]


_MAMBA1 = "Mamba-1: its selective scan takes no initial state in transformers"
_CONVOLUTION = "a short convolution: it remembers a few tokens and has no recurrent state"
_OWN_STATE = "it keeps its state in a form of its own, not in transformers' cache, which is where S0 enters"

#: recurrent mixers that exist in transformers but cannot start from S0, with the reason shown to the user
REFUSED: dict[str, str] = {
    "MambaMixer": _MAMBA1,
    "FalconMambaMixer": _MAMBA1,
    "JambaMambaMixer": _MAMBA1,
    "ZambaMambaMixer": _MAMBA1,
    "MiniMaxLightningAttention": "its decay is a constant, so pads cannot be made identities, and it brings its own cache",
    "ZayaCCAProjection": "its recurrent state is the previous token's value projection, overwritten at every token",
    "RecurrentGemmaRglru": _OWN_STATE,
    "RwkvSelfAttention": _OWN_STATE,
    "xLSTMLayer": _OWN_STATE,
    "Lfm2ShortConv": _CONVOLUTION,
    "Lfm2MoeShortConv": _CONVOLUTION,
    "Lfm3ShortConv": _CONVOLUTION,
    "InklingShortConvolution": _CONVOLUTION,
    "Inkling2ShortConvolution": _CONVOLUTION,
}


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
    #: keyword under which the model takes its cache; it would swallow another name silently (`s0.state.compat`)
    cache_argument: str = "past_key_values"
    #: the same of its recurrent mixers
    mixer_cache_argument: str = "cache_params"
    #: whether the model numbers its tokens (pure Mamba-2 models do not)
    positions: bool = True
    #: why a batch with pads cannot be exact for this model, or None where it is
    padding_refused: str | None = None

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

    Raises ArchitectureError, naming the model class and the reason, for models without recurrent layers and for the
    recurrent layers in `REFUSED`.
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
            f"model {type(model).__name__}: {_no_family(model)}; use a model of a supported family: "
            f"{', '.join(sorted(f.name for f in FAMILIES.values()))}"
        )
    for mixer in mixers.values():
        fault = compat.gated_norm_fault(mixer)
        if fault:
            raise ArchitectureError(f"model {type(model).__name__}: {fault}; install transformers 5.23 or newer")
    layers = tuple(sorted(mixers))
    text_model = model.get_submodule(prefix)
    config = model.config.get_text_config(decoder=True)  # type: ignore[union-attr,operator]
    return Layout(
        family=family,
        layers=layers,
        shapes={i: tuple(family.state_shape(mixers[i])) for i in layers},
        mixers={i: mixers[i] for i in layers},
        text_model_name=prefix,
        text_model=text_model,
        text_config=config,
        hidden_size=int(config.hidden_size),
        cache_argument=compat.cache_argument(text_model),
        mixer_cache_argument=compat.cache_argument(mixers[layers[0]]),
        positions=compat.takes_positions(text_model),
        padding_refused=next(filter(None, map(family.padding_refused, mixers.values())), None),
    )


def _no_family(model: nn.Module) -> str:
    for name, module in model.named_modules():
        if hasattr(module, "layer_idx") and (hasattr(module, "A_log") or hasattr(module, "conv1d")):
            return (
                f"layer {name} is {type(module).__name__}, a recurrent mixer without an entry in s0/state/families.py"
            )
    return "no recurrent layer whose state S0 could start (a pure Transformer has none)"


def device_of_layer(mixer: nn.Module) -> torch.device:
    """Device a layer's state must live on (layers may be spread by `device_map`)."""
    return compat.device_of(mixer)
