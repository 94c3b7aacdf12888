"""Right-padded micro-batches of training examples."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from s0.data import Example
from s0.errors import S0Error
from s0.training.jobs import FitJob


@dataclass
class Batch:
    """A right-padded micro-batch. ids [B, L]; rows/positions/targets/weights [T], one entry per completion token: the
    logit at (row, position) predicts target; weight = 1 / tokens of the completion / solutions of the job."""

    ids: Tensor
    jobs: Tensor
    rows: Tensor
    positions: Tensor
    targets: Tensor
    weights: Tensor
    token_jobs: Tensor


def truncate(example: Example, max_length: int) -> Example:
    """Prompt + completion cut to `max_length` tokens. Raises S0Error if no completion token is left."""
    room = max_length - len(example.prompt_ids)
    if room < 1 or not example.prompt_ids or not example.completion_ids:
        raise S0Error(
            f"example {example.problem_id}: prompt of {len(example.prompt_ids)} and completion of "
            f"{len(example.completion_ids)} tokens leave nothing to learn within max_length={max_length}; raise max_length"
        )
    return Example(example.problem_id, example.prompt_ids, example.completion_ids[:room])


#: what one more micro-batch costs, in padded tokens (its operations' overhead; experiments/LOG.md)
PASS_TOKENS = 100


def pack(lengths: list[int], budget: int) -> list[int]:
    """Where to cut rows of ascending `lengths` into micro-batches: the end of each, such that rows x longest <= `budget` (or
    one row) and the padded tokens, with PASS_TOKENS for every micro-batch, are as few as possible."""
    least = [0.0]
    cut = [0]
    for end, longest in enumerate(lengths, 1):
        first = max(0, end - max(1, budget // longest))
        cost, at = min((least[a] + (end - a) * longest + PASS_TOKENS, a) for a in range(first, end))
        least.append(cost)
        cut.append(at)
    ends = []
    end = len(lengths)
    while end:
        ends.append(end)
        end = cut[end]
    return ends[::-1]


def make_batches(
    jobs: list[FitJob], device: torch.device, token_budget: int | None, pad_id: int, mix: bool = True
) -> list[Batch]:
    """All rows of all jobs, sorted by length and packed so that rows x longest <= `token_budget` (at least one row).

    A budget of None is 2048 on CPU, where a batch should stay in the caches (experiments/LOG.md), and 16384 elsewhere.
    `mix` lets rows of several jobs share a micro-batch; without, every job has its own, whatever jobs it is trained with.
    """
    budget = token_budget or (2048 if device.type == "cpu" else 16384)
    groups: list[list[tuple[int, int, Example, float]]] = []
    items: list[tuple[int, int, Example, float]] = []
    for j, job in enumerate(jobs):
        for e in job.examples:
            t = truncate(e, job.config.max_length)
            items.append((len(t.prompt_ids) + len(t.completion_ids), j, t, 1.0 / len(job.examples)))
    items.sort(key=lambda x: x[0])
    for own in [items] if mix else [[x for x in items if x[1] == j] for j in range(len(jobs))]:
        ends = pack([x[0] for x in own], budget)
        groups += [own[a:b] for a, b in itertools.pairwise([0, *ends])]
    batches = []
    for group in groups:
        longest = group[-1][0]
        ids = torch.full((len(group), longest), pad_id, dtype=torch.long)
        rows: list[int] = []
        positions: list[int] = []
        targets: list[int] = []
        weights: list[float] = []
        token_jobs: list[int] = []
        for r, (_, j, e, share) in enumerate(group):
            p, c = e.prompt_ids, e.completion_ids
            ids[r, : len(p) + len(c)] = torch.tensor(p + c)
            rows += [r] * len(c)
            positions += range(len(p) - 1, len(p) + len(c) - 1)
            targets += c
            weights += [share / len(c)] * len(c)
            token_jobs += [j] * len(c)
        as_tensor = lambda x, dtype=torch.long: torch.tensor(x, dtype=dtype, device=device)  # noqa: E731
        batches.append(
            Batch(
                ids.to(device),
                as_tensor([g[1] for g in group]),
                as_tensor(rows),
                as_tensor(positions),
                as_tensor(targets),
                as_tensor(weights, torch.float32),
                as_tensor(token_jobs),
            )
        )
    return batches
