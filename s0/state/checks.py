"""What S0 promises on every family, as checks that run on any loaded model.

Each check takes a model in float32 and eval mode with its layout, and returns the largest error it saw; it raises
`Broken` where the promise does not hold. `scripts/families.py` prints them as a matrix, the tests run the same functions.
Every batched or cached result is compared with the plainest run there is: one prompt, no padding, no cache reuse.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from s0.errors import S0Error
from s0.state.cache import S0Cache, TrainingCache, rows_of
from s0.state.families import Layout
from s0.state.initial import InitialState
from s0.state.inject import Injection

#: largest difference between logits that count as equal in float32
TOLERANCE = 1e-4
#: Frobenius norm per layer of the random states, large enough to change the logits by more than 100 x TOLERANCE
NORM = 4.0
NEW_TOKENS = 12
#: a prompt of one token is a case of its own: it takes the one-token kernel, which updates its state in place
LENGTHS = (1, 4, 11, 18)


class Broken(S0Error):
    """A check does not hold; the message says which numbers differ."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise Broken(message)


def _prompts(layout: Layout, lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    g = torch.Generator().manual_seed(3)
    # the top of the vocabulary may be image or other special tokens
    return [torch.randint(2, int(layout.text_config.vocab_size) - 10, (n,), generator=g) for n in lengths]


def _states(layout: Layout, n: int) -> list[InitialState | None]:
    return [InitialState.random(layout, NORM, seed=s, alpha=1.0 - 0.2 * s) for s in range(n)]


def _pad(prompts: list[Tensor]) -> dict[str, Tensor]:
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for r, p in enumerate(prompts):
        ids[r, width - len(p) :], mask[r, width - len(p) :] = p, 1
    return {"input_ids": ids, "attention_mask": mask}


def _positions(layout: Layout, mask: Tensor) -> dict[str, Tensor]:
    """`generate` numbers positions from the first token; a direct call has to do so itself (Mamba-2 has none)."""
    return {} if not layout.positions else {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


@torch.no_grad()
def _logits(model: nn.Module, layout: Layout, states: Any, batch: dict[str, Tensor]) -> Tensor:
    with Injection(model, layout, states):
        return model(**batch, **_positions(layout, batch["attention_mask"])).logits


@torch.no_grad()
def _generate(model: Any, layout: Layout, states: Any, batch: dict[str, Tensor], **kwargs: Any) -> list[list[int]]:
    with Injection(model, layout, states):
        out = model.generate(
            **batch, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0, **kwargs
        )
    return out[:, batch["input_ids"].shape[1] :].tolist()


def _batch_equals_singles(model: nn.Module, layout: Layout, states: list[InitialState | None]) -> float:
    prompts = _prompts(layout)
    batch = _pad(prompts)
    together, tokens = _logits(model, layout, states, batch), _generate(model, layout, states, batch)
    worst = 0.0
    for r, p in enumerate(prompts):
        alone = _pad([p])
        error = float((together[r, -len(p) :] - _logits(model, layout, states[r], alone)[0]).abs().max())
        _require(error < TOLERANCE, f"row {r} of {len(p)} tokens: logits differ by {error:.2e}")
        expected = _generate(model, layout, states[r], alone)[0]
        _require(tokens[r] == expected, f"row {r} of {len(p)} tokens: greedy tokens {tokens[r]} != {expected}")
        worst = max(worst, error)
    return worst


def padded(model: nn.Module, layout: Layout) -> float:
    """One state, prompts of different lengths in one left-padded batch: same logits and greedy tokens as one by one."""
    state = _states(layout, 1)[0]
    return _batch_equals_singles(model, layout, [state] * len(LENGTHS))


def rows(model: nn.Module, layout: Layout) -> float:
    """Every row its own state (one row none at all): same logits and greedy tokens as separate runs."""
    return _batch_equals_singles(model, layout, [*_states(layout, len(LENGTHS) - 1), None])


@torch.no_grad()
def cached(model: nn.Module, layout: Layout) -> float:
    """A sequence fed in pieces through one cache, one token and several at a time: same logits as in one piece."""
    state = _states(layout, 1)[0]
    ids = _prompts(layout, (20,))[0][None]
    full = _logits(model, layout, state, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    worst = 0.0
    for pieces in ((1, 6, 1, 1, 9, 2), (9, 1, 1, 4, 5)):
        cache = S0Cache(layout, rows_of(layout, [state]))
        parts, start = [], 0
        with Injection(model, layout, state):
            for n in pieces:
                piece = ids[:, start : start + n]
                options: dict[str, Any] = {"use_cache": True, layout.cache_argument: cache}
                if layout.positions:  # Bamba would number every piece from 0
                    options["position_ids"] = torch.arange(start, start + n)[None]
                out = model(input_ids=piece, **options)
                parts.append(out.logits)
                start += n
        error = float((torch.cat(parts, 1) - full).abs().max())
        _require(error < TOLERANCE, f"pieces of {pieces} tokens: logits differ by {error:.2e}")
        worst = max(worst, error)
    return worst


@torch.no_grad()
def zero(model: nn.Module, layout: Layout) -> float:
    """A zero state changes no bit of the logits, a non-zero one does, and afterwards the model is as before."""
    zeros = {i: torch.zeros(1, *shape) for i, shape in layout.shapes.items()}
    for p in _prompts(layout):
        ids = p[None]
        base = model(input_ids=ids).logits
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        plain = model(**batch, **_positions(layout, batch["attention_mask"])).logits
        same = _logits(model, layout, InitialState.zeros(layout), batch)
        _require(
            torch.equal(plain, same), f"{len(p)} tokens: zero state moves logits by {(plain - same).abs().max():.2e}"
        )
        if len(p) > 1:  # a given state, be it zero, sends a single token through another kernel
            explicit = model(input_ids=ids, use_cache=True, **{layout.cache_argument: S0Cache(layout, zeros)}).logits
            _require(torch.equal(base, explicit), f"{len(p)} tokens: zero start differs from no start")
        effect = float((_logits(model, layout, _states(layout, 1)[0], batch) - plain).abs().max())
        _require(effect > 100 * TOLERANCE, f"{len(p)} tokens: a state of norm {NORM} moves logits by only {effect:.2e}")
        _require(torch.equal(base, model(input_ids=ids).logits), "the model differs after the state was taken off")
    return 0.0


def gradients(model: nn.Module, layout: Layout) -> float:
    """Gradients of a loss with respect to each row's state equal central differences and stay in their row.

    Returns the relative error. The kernels compute in float32 whatever the model's dtype, hence the 1 % tolerance. In a
    mixture of experts the loss jumps where a router switches; such a point says nothing, and the next prompt is tried.
    """
    reasons = []
    for seed in (5, 6, 7):
        try:
            return _gradient_error(model, layout, seed)
        except Broken as broken:
            reasons.append(str(broken))
    raise Broken("; ".join(reasons))


def _gradient_error(model: nn.Module, layout: Layout, seed: int) -> float:
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, int(layout.text_config.vocab_size) - 10, (2, 13), generator=g)
    start = {i: t.expand(2, *t.shape[1:]).clone() for i, t in rows_of(layout, _states(layout, 1)).items()}
    random = {i: torch.randn(t.shape, generator=g) for i, t in start.items()}

    def losses(states: dict[int, Tensor]) -> Tensor:
        options: dict[str, Any] = {"use_cache": True, layout.cache_argument: TrainingCache(layout, states)}
        logits = model(input_ids=ids, **options).logits[:, :-1]
        return nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").double().sum(1)

    leaves = {i: t.clone().requires_grad_() for i, t in start.items()}
    losses(leaves)[0].backward()
    found = {i: leaf.grad for i, leaf in leaves.items() if leaf.grad is not None}
    _require(sorted(found) == sorted(start), f"gradients reach only layers {sorted(found)}")
    for i, t in found.items():
        _require(bool(t[0].any()), f"layer {i}: the gradient is zero")
        _require(not bool(t[1].any()), f"layer {i}: row 0's loss has a gradient in row 1's state")
    size = _norm(found)
    worst = 0.0
    # the steepest direction makes the quotient large against rounding, a random one sees every entry
    for direction in (found, random):
        way = {i: d / _norm(direction) for i, d in direction.items()}
        expected = sum(float((found[i][0] * way[i][0]).sum()) for i in way)
        eps = 2e-3
        with torch.no_grad():
            up, down = (losses({i: start[i] + sign * eps * way[i] for i in start})[0] for sign in (1, -1))
        measured = float(up - down) / (2 * eps)
        error = abs(measured - expected) / size
        _require(error < 1e-2, f"directional derivative {measured:.4g}, autograd says {expected:.4g}")
        worst = max(worst, error)
    return worst


def _norm(tensors: dict[int, Tensor]) -> float:
    return sum(float(t.square().sum()) for t in tensors.values()) ** 0.5


def beams(model: nn.Module, layout: Layout) -> float:
    """Beam search with several returned sequences per prompt, each prompt with its own state: as prompt by prompt."""
    prompts = _prompts(layout, (1, 7))
    states = _states(layout, 2)
    options: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2}
    together = _generate(model, layout, states, _pad(prompts), **options)
    alone = [
        s
        for p, state in zip(prompts, states, strict=True)
        for s in _generate(model, layout, state, _pad([p]), **options)
    ]
    _require(together == alone, f"sequences {together} != {alone}")
    return 0.0


def saved(model: nn.Module, layout: Layout) -> float:
    """A state saved and loaded again gives the same logits bit for bit."""
    state = InitialState.random(layout, NORM, seed=9, alpha=0.3)
    batch = _pad(_prompts(layout))
    with tempfile.TemporaryDirectory() as folder:
        again = InitialState.load(state.save(folder), layout)
    a, b = _logits(model, layout, state, batch), _logits(model, layout, again, batch)
    _require(torch.equal(a, b), f"logits differ by {(a - b).abs().max():.2e} after save and load")
    return 0.0


CHECKS: dict[str, Callable[[nn.Module, Layout], float]] = {
    "padded = unpadded": padded,
    "cached = full": cached,
    "zero = none": zero,
    "gradients": gradients,
    "per-row states": rows,
    "beams": beams,
    "save / load": saved,
}
