"""Padded batches as the published GSM8K, MATH-500 and Spider runs used them: left padding whose pads decay the state.

Kept only so that the difference can be measured (`task.legacy_padding=true`); records and tables say so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from s0.engines.base import Generated, Request, finish, stop_ids
from s0.state.families import describe
from s0.state.initial import InitialState
from s0.state.inject import Injection


@torch.no_grad()
def run_padded(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Request],
    state: InitialState | None,
    adapter: Any,
    batch_size: int,
    wanted: set[int],
) -> Iterator[tuple[int, Generated]]:
    """Greedy completions of `requests` in batches of `batch_size`, in the given order, left-padded to the longest prompt
    of the batch. Yields (index, Generated) for the indices in `wanted`. The batch decides what a row sees, so a batch is
    always whole; batches without a wanted row are skipped."""
    eos = stop_ids(model, tokenizer)
    device = next(model.parameters()).device
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (eos[0] if eos else 0)
    context: Any = contextlib.nullcontext(model)
    if adapter is not None:
        context = adapter.applied(model)
    elif state is not None:
        context = Injection(model, describe(model), state, padding="legacy")
    with context as applied:
        target = model if adapter is None else applied
        for start in range(0, len(requests), batch_size):
            batch = requests[start : start + batch_size]
            if not wanted & set(range(start, start + len(batch))):
                continue
            longest = max(len(r.prompt_ids) for r in batch)
            ids = torch.full((len(batch), longest), pad, device=device)
            mask = torch.zeros_like(ids)
            for row, r in enumerate(batch):
                ids[row, longest - len(r.prompt_ids) :] = torch.tensor(r.prompt_ids, device=device)
                mask[row, longest - len(r.prompt_ids) :] = 1
            out = target.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=batch[0].max_new_tokens,
                do_sample=False,
                eos_token_id=list(eos) or None,
                pad_token_id=pad,
            )
            for row in range(len(batch)):
                if start + row not in wanted:
                    continue
                new = out[row, longest:].tolist()
                end = next((n + 1 for n, token in enumerate(new) if token in eos), len(new))
                yield start + row, finish(tokenizer, new[:end], eos, ())
