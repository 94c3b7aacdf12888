"""What every engine takes and returns, and the sampling rule they share.

Sampling is by inverse CDF: row r draws uniform number t for its t-th token from a Philox stream keyed by the request's
own seed. What a row samples therefore depends on its logits and its seed, never on which rows share its batch.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from s0.errors import ConfigError
from s0.state.initial import InitialState

#: how many of the likeliest tokens are sorted first; the rare row whose top-p set is larger falls back to a full sort
TOP = 512


@dataclass(frozen=True)
class Request:
    """One row to generate. `state` is a key of the `states` mapping given to the engine, or None for the base model.
    temperature 0 is greedy. Requests with equal prompt and state share one prefill."""

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    state: Hashable = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ConfigError("prompt: empty; a recurrent model needs at least one token to start from")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={self.max_new_tokens}: must be at least 1")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"temperature={self.temperature}, top_p={self.top_p}: temperature must be >= 0 and 0 < top_p <= 1"
            )


@dataclass(frozen=True)
class Generated:
    """`token_ids` includes the end-of-turn token when it was produced; `text` leaves special tokens out."""

    token_ids: list[int]
    text: str
    finish: Literal["stop", "length"]


def request_seed(*parts: Any) -> int:
    """64-bit seed of one request from what identifies it (run seed, problem id, sample index)."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")


def uniforms(seed: int, n: int, start: int = 0) -> np.ndarray:
    """Numbers start..start+n-1, uniform in [0, 1), float64, of the request's own Philox stream; start is a multiple of 4."""
    stream = np.random.Philox(key=seed & (2**64 - 1))
    if start:
        stream.advance(start // 4)  # one count of Philox4x64 is four numbers
    return np.random.Generator(stream).random(n)


def sample(logits: Tensor, u: Tensor, temperature: Tensor, top_p: Tensor) -> Tensor:
    """Tokens [G, K] drawn from logits [G, V] with u [G, K]: nucleus sampling by inverse CDF, K draws per row.

    temperature (> 0) and top_p are [G]; float64 u keeps the inversion exact for large vocabularies. The nucleus is the
    smallest set of likeliest tokens whose mass reaches top_p (Holtzman et al. 2020).
    """
    x = logits.double() / temperature.double()[:, None]
    log_z = x.logsumexp(-1, keepdim=True)
    limit = top_p.double()[:, None]
    width = min(TOP, x.shape[-1])
    tokens, mass = _invert(*x.topk(width, dim=-1), log_z, limit, u)
    if width < x.shape[-1]:
        # only rows that need it: the order of equal logits differs between topk and sort, and a row must not feel its mates
        wide = (mass < limit).squeeze(1).nonzero().squeeze(1)
        if len(wide):
            tokens[wide], _ = _invert(*x[wide].sort(-1, descending=True), log_z[wide], limit[wide], u[wide])
    return tokens


def _invert(top: Tensor, index: Tensor, log_z: Tensor, limit: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [G, K] and the mass [G, 1] of all candidates, from candidates in descending order."""
    cdf = (top - log_z).exp().cumsum(-1)
    # a token is in the nucleus if the mass before it is still below top_p
    before = torch.nn.functional.pad(cdf, (1, 0))[:, :-1]
    last = (before < limit).sum(-1, keepdim=True).clamp(min=1) - 1
    pick = torch.searchsorted(cdf, u.to(cdf) * cdf.gather(1, last), right=True)
    return index.gather(1, torch.minimum(pick, last)), cdf[:, -1:]


def choose_tokens(logits: Tensor, u: Tensor, temperature: Tensor, top_p: Tensor) -> Tensor:
    """Next tokens [B] from logits [B, V] and u, temperature, top_p [B]: argmax where temperature is 0, else `sample`."""
    tokens = logits.argmax(-1)
    hot = (temperature > 0).nonzero().squeeze(1)
    if len(hot):
        tokens[hot] = sample(logits[hot], u[hot, None], temperature[hot], top_p[hot]).squeeze(1)
    return tokens


def stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Token ids that end a turn: those of the generation config and the tokenizer's end token."""
    ids: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(source, "eos_token_id", None)
        ids |= set(value) if isinstance(value, (list, tuple)) else ({value} if value is not None else set())
    return tuple(sorted(int(i) for i in ids))


class Engine(abc.ABC):
    """Turns requests into completions. `run` yields (index, Generated) as rows finish, in any order."""

    #: what the engine did that a record should say (batch size used, graphs, back-offs)
    notes: dict[str, Any]

    @abc.abstractmethod
    def run(
        self,
        model: Any,
        tokenizer: Any,
        requests: Sequence[Request],
        states: Mapping[Hashable, InitialState] | None = None,
        stop: Sequence[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, Generated]]:
        """Generate all requests. Raises ConfigError for unknown state keys, ArchitectureError for states that do not fit.
        `progress` receives the number of tokens decoded since the last call."""

    def all(self, model: Any, tokenizer: Any, requests: Sequence[Request], *args: Any, **kw: Any) -> list[Generated]:
        """Results in the order of the requests."""
        out: dict[int, Generated] = dict(self.run(model, tokenizer, requests, *args, **kw))
        return [out[i] for i in range(len(requests))]


def finish(tokenizer: Any, ids: list[int], eos: Sequence[int], stop: Sequence[str]) -> Generated:
    """Text of a finished row: special tokens left out, cut at the first stop string."""
    ended = bool(ids) and ids[-1] in eos
    text = tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
    cut = min((p for s in stop if (p := text.find(s)) >= 0), default=-1)
    if cut >= 0:
        return Generated(ids, text[:cut], "stop")
    return Generated(ids, text, "stop" if ended else "length")
