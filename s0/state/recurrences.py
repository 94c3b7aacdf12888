"""The kinds of recurrence: what all families with one kind share, read from a mixer or from its kernel's call.

Sources: the `modeling_*.py` file of each family; paper section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import softplus

#: a decay projection and what turns its output [batch, tokens, ...] into the log decay, fp32 [batch, tokens, heads] or,
#: with a decay per key channel, [batch, tokens, heads, key dim]
DecayReader = tuple[nn.Module, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Recurrence:
    """One kind of recurrence.

    name           as saved in `meta.json`
    default_alpha  scale of a learned state at use time. 0.07 and 0.65 are the paper's (for Qwen3.5 and Falcon-H1); nobody
                   has measured another family, so for those they are a starting point for `method.alpha=auto`
    axes           names of the state's axes in transformers' layout
    state_shape    mixer -> shape of one row's state, in that layout
    chunk, step    names of the chunked and the one-token kernel in transformers' modeling files
    fused          name of the fused training kernel, which takes no initial state, or None
    erases         the delta rule: a write first erases what the state holds along its key
    key_first      a head's state is [key dim, value dim] (read S'q); otherwise [value dim, key dim]
    decay          mixer -> its decay reader, where all families of this kind share one
    """

    name: str
    default_alpha: float
    axes: str
    state_shape: Callable[[Any], tuple[int, ...]]
    chunk: str
    step: str
    fused: str | None
    erases: bool
    key_first: bool
    decay: Callable[[Any], DecayReader]

    def matrix(self, state: Tensor) -> Tensor:
        """A state [..., *axes] as [..., key dim, value dim] per head, and back (a view)."""
        return state if self.key_first else state.transpose(-1, -2)


# -- state shapes ------------------------------------------------------------------------------------------------------


def _delta_shape(mixer: Any) -> tuple[int, ...]:
    return (mixer.num_v_heads, mixer.head_k_dim, mixer.head_v_dim)


def _kimi_shape(mixer: Any) -> tuple[int, ...]:
    return (mixer.num_heads, mixer.head_dim, mixer.head_dim)


def _mamba2_shape(mixer: Any) -> tuple[int, ...]:
    return (mixer.num_heads, mixer.head_dim, mixer.ssm_state_size)


# -- decay readers -----------------------------------------------------------------------------------------------------


def delta_decay(projection: str, heads: Callable[[Any, Tensor], Tensor] = lambda mixer, out: out) -> Any:
    """Gated DeltaNet: log decay = -exp(A_log) * softplus(a + dt_bias); `heads` picks a [..., heads] out of the output of the
    mixer's module `projection`."""

    def reader(mixer: Any) -> DecayReader:
        def read(out: Tensor) -> Tensor:
            return -mixer.A_log.float().exp() * softplus(heads(mixer, out).float() + mixer.dt_bias.float())

        return mixer.get_submodule(projection), read

    return reader


def grouped_decay_columns(mixer: Any, out: Tensor) -> Tensor:
    """Qwen3-Next projects b and a together, key head by key head: [key heads, (b of its value heads, a of them)]."""
    per_group = mixer.num_v_heads // mixer.num_k_heads
    grouped = out.view(*out.shape[:-1], mixer.num_k_heads, 2 * per_group)[..., per_group:]
    return grouped.reshape(*out.shape[:-1], mixer.num_v_heads)


def _kimi_decay(mixer: Any) -> DecayReader:
    """The forget gate answers with the log decay itself, one per key channel."""
    return mixer.forget_gate, lambda out: out.float()


def _mamba2_decay(mixer: Any) -> DecayReader:
    """log decay = -exp(A_log) * dt, dt = softplus(dt part of in_proj(x) + dt_bias), clamped to `time_step_limit`."""
    scale = getattr(mixer, "mup_vector", None)
    low, high = getattr(mixer, "time_step_limit", (0.0, float("inf")))

    def read(out: Tensor) -> Tensor:
        dt = (out * scale.flatten().to(out) if scale is not None else out)[..., -mixer.num_heads :].float()
        dt = softplus(dt + mixer.dt_bias.float()).clamp(low, high)
        return -mixer.A_log.float().exp() * dt

    return mixer.in_proj, read


GATED_DELTA_NET = Recurrence(
    name="gated_delta_net",
    default_alpha=0.07,
    axes="value heads × key dim × value dim",
    state_shape=_delta_shape,
    chunk="torch_chunk_gated_delta_rule",
    step="torch_recurrent_gated_delta_rule",
    fused=None,
    erases=True,
    key_first=True,
    decay=delta_decay("in_proj_a"),
)
KIMI = Recurrence(
    name="kimi_delta_attention",
    default_alpha=0.07,
    axes="heads × key dim × value dim",
    state_shape=_kimi_shape,
    chunk="chunk_kimi_delta_attention",
    step="recurrent_kimi_delta_attention",
    fused=None,
    erases=True,
    key_first=True,
    decay=_kimi_decay,
)
MAMBA2 = Recurrence(
    name="mamba2",
    default_alpha=0.65,
    axes="heads × head dim × state size",
    state_shape=_mamba2_shape,
    chunk="mamba2_chunk_scan",
    step="mamba2_selective_state_update",
    fused="mamba2_split_conv1d_scan_combined",
    erases=False,
    key_first=False,
    decay=_mamba2_decay,
)
RECURRENCES = {r.name: r for r in (GATED_DELTA_NET, KIMI, MAMBA2)}
#: alpha by kind of recurrence
DEFAULT_ALPHA = {name: r.default_alpha for name, r in RECURRENCES.items()}
