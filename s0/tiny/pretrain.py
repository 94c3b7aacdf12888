"""Pretraining of the embedded models from scratch, on one CPU thread.

Each model sees the corpus once: prompt and completion are encoded separately, the completion is weighted 1 and the prompt
PROMPT_WEIGHT. AdamW with warm-up and cosine decay; batches of equal-ish length so that little is padding.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.qwen3_5 import modeling_qwen3_5

from s0.tiny import corpus
from s0.tiny.models import PAD_ID, build

PROMPT_WEIGHT = 0.2


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a pretraining run, besides the code and library versions."""

    seed: int = 1
    steps: int = 700
    batch_size: int = 64
    lr: float = 3e-3
    warmup: int = 100
    final_lr: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    clip: float = 1.0


@dataclass(frozen=True)
class Run:
    """What happened: completion loss (nats per token) every LOG_EVERY steps, seconds, tokens."""

    losses: list[tuple[int, float]]
    wall_s: float
    tokens: int

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


LOG_EVERY = 20


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> tuple[list[int], list[int]]:
    """(prompt ids with the chat template, thinking off; completion ids with the end-of-turn token)."""
    head = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        enable_thinking=False,
        tokenize=False,
    )
    ids = tokenizer(head, add_special_tokens=False)["input_ids"]
    tail = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return ids, [*tail, tokenizer.eos_token_id]


def batches(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """(ids, weights), each [batch, length]; `weights[b, t]` belongs to predicting `ids[b, t]` and is 0 on padding."""
    window = 16 * recipe.batch_size
    rng = random.Random(recipe.seed)
    pool: list[tuple[list[int], list[int]]] = []
    total = recipe.steps * recipe.batch_size
    for i, pair in enumerate(corpus.pairs(recipe.seed, total), start=1):
        pool.append(encode(tokenizer, *pair))
        if len(pool) == window or i == total:
            pool.sort(key=lambda e: len(e[0]) + len(e[1]))
            groups = [pool[j : j + recipe.batch_size] for j in range(0, len(pool), recipe.batch_size)]
            rng.shuffle(groups)
            for group in groups:
                length = max(len(p) + len(c) for p, c in group)
                ids = torch.full((len(group), length), PAD_ID)
                weights = torch.zeros(len(group), length)
                for row, (p, c) in enumerate(group):
                    ids[row, : len(p) + len(c)] = torch.tensor(p + c)
                    weights[row, 1 : len(p)] = PROMPT_WEIGHT
                    weights[row, len(p) : len(p) + len(c)] = 1.0
                yield ids, weights
            pool = []


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then cosine to `final_lr` of the peak."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (recipe.final_lr + (1 - recipe.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))


def pretrain(name: str, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> tuple[PreTrainedModel, Run]:
    """Train `name` from scratch; deterministic for one machine and library version (one thread)."""
    threads, library_kernel = torch.get_num_threads(), modeling_qwen3_5.torch_chunk_gated_delta_rule
    torch.set_num_threads(1)
    modeling_qwen3_5.torch_chunk_gated_delta_rule = chunk_gated_delta_rule
    try:
        return _train(name, tokenizer, recipe)
    finally:
        torch.set_num_threads(threads)
        modeling_qwen3_5.torch_chunk_gated_delta_rule = library_kernel


def _train(name: str, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> tuple[PreTrainedModel, Run]:
    model = build(name, recipe.seed)
    model.train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.lr,
        betas=recipe.betas,
    )
    losses: list[tuple[int, float]] = []
    tokens, start, running = 0, time.monotonic(), []
    for step, (ids, weights) in enumerate(batches(tokenizer, recipe)):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        weights = weights[:, 1:]
        loss = (each * weights).sum() / weights.sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
        tokens += int((weights > 0).sum())
        completion = weights == 1
        running.append(float((each.detach() * completion).sum() / completion.sum()))
        if (step + 1) % LOG_EVERY == 0 or step + 1 == recipe.steps:
            losses.append((step + 1, round(sum(running) / len(running), 4)))
            running = []
            print(
                f"{name} step {step + 1}/{recipe.steps} loss {losses[-1][1]} {time.monotonic() - start:.0f} s",
                flush=True,
            )
    model.eval()
    return model, Run(losses, round(time.monotonic() - start, 1), tokens)


def chunk_gated_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    chunk_size: int = 32,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """The gated delta rule by chunks, with a triangular solve in place of the library's row-by-row substitution.

    Arguments and result as in `transformers.models.qwen3_5.modeling_qwen3_5.torch_chunk_gated_delta_rule`
    (query/key [batch, length, key heads, key dim], value [batch, length, value heads, value dim], g and beta
    [batch, length, value heads]); equal to it up to rounding (Yang et al. 2024, Gated Delta Networks, section 3.3).
    """
    dtype, (batch, length, key_heads, _dim) = value.dtype, key.shape
    heads, value_dim = value.shape[2:]
    if key_heads != heads:
        query, key = (x.repeat_interleave(heads // key_heads, dim=2) for x in (query, key))
    query, key, value, g, beta = (x.transpose(1, 2).float() for x in (query, key, value, g, beta))
    if use_qk_l2norm_in_kernel:
        query, key = (x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6) for x in (query, key))
    query = query * query.shape[-1] ** -0.5
    pad = -length % chunk_size
    query, key, value = (torch.nn.functional.pad(x, (0, 0, 0, pad)) for x in (query, key, value))
    g, beta = (torch.nn.functional.pad(x, (0, pad)) for x in (g, beta))
    query, key, value, g, beta = (x.unflatten(2, (-1, chunk_size)) for x in (query, key, value, g, beta))
    decay = g.cumsum(-1)
    ratio = (decay[..., :, None] - decay[..., None, :]).tril().exp().tril()
    lower = ((key * beta[..., None]) @ key.mT * ratio).tril(-1)
    right = torch.cat([value * beta[..., None], key * (beta * decay.exp())[..., None]], -1)
    solved = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
    u, w = solved.split([value_dim, key.shape[-1]], -1)
    local = (query @ key.mT) * ratio
    carried = query * decay.exp()[..., None]
    writes = key * (decay[..., -1:] - decay).exp()[..., None]
    state = key.new_zeros(batch, heads, key.shape[-1], value_dim) if initial_state is None else initial_state.float()
    outputs = []
    for i in range(query.shape[2]):
        new = u[:, :, i] - w[:, :, i] @ state
        outputs.append(carried[:, :, i] @ state + local[:, :, i] @ new)
        state = state * decay[:, :, i, -1].exp()[..., None, None] + writes[:, :, i].mT @ new
    out = torch.stack(outputs, 2).flatten(2, 3)[:, :, :length]
    return out.transpose(1, 2).to(dtype), state if output_final_state else None
