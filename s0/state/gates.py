"""Decay gates of the recurrent layers, read while a prompt passes through: how long does an initial state live?

GatedDeltaNet: log decay = -exp(A_log) * softplus(a + dt_bias), a = in_proj_a(x). Mamba-2: log decay = -exp(A_log) * dt,
dt = softplus(dt part of in_proj(x) + dt_bias), clamped to `time_step_limit`. (transformers' modelling files; paper,
section 3.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from s0.errors import ArchitectureError
from s0.state.cache import S0Cache, rows_of
from s0.state.families import Layout
from s0.state.initial import InitialState


def _delta_reader(mixer: Any) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    name = next((n for n in ("in_proj_a", "a_proj") if hasattr(mixer, n)), None)
    if name is None:
        raise ArchitectureError(
            f"{type(mixer).__name__}: its decay projection is not known to the gate analysis; "
            "analyse a qwen3_5, olmo_hybrid or Mamba-2 model"
        )

    def read(out: Tensor) -> Tensor:
        return -mixer.A_log.float().exp() * softplus(out.float() + mixer.dt_bias.float())

    return getattr(mixer, name), read


def _mamba2_reader(mixer: Any) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    scale = getattr(mixer, "mup_vector", None)
    low, high = getattr(mixer, "time_step_limit", (0.0, float("inf")))

    def read(out: Tensor) -> Tensor:
        dt = (out * scale.flatten().to(out) if scale is not None else out)[..., -mixer.num_heads :].float()
        dt = softplus(dt + mixer.dt_bias.float()).clamp(low, high)
        return -mixer.A_log.float().exp() * dt

    return mixer.in_proj, read


_READERS = {"gated_delta_net": _delta_reader, "mamba2": _mamba2_reader}


@torch.no_grad()
def run_prompt(
    model: Any, layout: Layout, prompt_ids: Sequence[int], state: InitialState | None = None, **options: Any
) -> tuple[Any, S0Cache, dict[int, Tensor]]:
    """One unpadded prompt through the model from `state` (None: zero).

    Returns the model's output, the cache holding the states after the prompt, and the log decays: layer -> fp32
    [tokens, heads] on the CPU. Raises ArchitectureError for recurrences whose gates cannot be read.
    """
    if layout.architecture not in _READERS:
        raise ArchitectureError(
            f"architecture {layout.architecture!r}: gates can be read for {', '.join(sorted(_READERS))} only"
        )
    gates: dict[int, Tensor] = {}
    handles = []
    for i, mixer in layout.mixers.items():
        module, read = _READERS[layout.architecture](mixer)

        def hook(module: nn.Module, args: Any, out: Tensor, i: int = i, read: Any = read) -> None:
            gates[i] = read(out[0]).cpu()

        handles.append(module.register_forward_hook(hook))
    cache = S0Cache(layout, rows_of(layout, [state]))
    ids = torch.tensor([list(prompt_ids)], device=next(model.parameters()).device)
    try:
        out = model(input_ids=ids, use_cache=True, **{layout.cache_argument: cache}, **options)
    finally:
        for handle in handles:
            handle.remove()
    return out, cache, gates


def state_of(cache: S0Cache, layer: int) -> Tensor:
    """The recurrent state a cache now holds for its single row: fp32, the layer's state shape, on the CPU."""
    state = cache.get_recurrent_state(layer)
    assert state is not None
    return state[0].float().cpu()


def surviving_energy(gates: dict[int, Tensor], state: InitialState) -> Tensor:
    """Squared norm of what the gates leave of `state` after each token, summed over layers and heads: fp64 [tokens].

    The delta rule's erasure along written keys is not counted, so for GatedDeltaNet this is an upper bound.
    """
    total: Tensor | None = None
    for i, start in state.effective().items():
        energy = start.double().flatten(1).pow(2).sum(1)
        left = (2 * gates[i].double().cumsum(0)).exp() @ energy
        total = left if total is None else total + left
    assert total is not None
    return total
