"""A decode step for all slots, and the smallest batch in which a row has the bits it has in any other."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s0.engines.graphs import GraphedDecode
from s0.engines.slots import SharedPrefix, SlotCache, round_up

#: a decode batch is one of these sizes, or a power of two times it: see `smallest_batch`
SIZES = (8, 16, 32)

#: what is prefilled: prompt and state
Key = tuple[tuple[int, ...], Hashable]


class Step:
    """One decode step for all slots; on CUDA optionally a captured graph per (slots, attended length)."""

    def __init__(self, model: Any, cache: SlotCache, cache_argument: str, cuda_graphs: bool, notes: dict[str, Any]):
        self.model, self.cache, self.cache_argument = model, cache, cache_argument
        self.eager = model.config.get_text_config(decoder=True)._attn_implementation == "eager"
        self.dtype = next(model.parameters()).dtype
        self.graphed: Any = None
        if cuda_graphs and cache.device.type == "cuda":
            self.graphed = GraphedDecode(self._forward, cache, notes)

    def reset(self) -> None:
        if self.graphed is not None:
            self.graphed.reset()

    def __call__(self, tokens: np.ndarray) -> Tensor:
        """Logits [slots, vocab] after tokens [slots]; every slot gets one position longer."""
        cache = self.cache
        furthest = int(cache.lengths.max()) + 1
        cache.reserve(furthest)
        cache.attended = min(round_up(furthest), cache.capacity)
        cache.positions.copy_(torch.from_numpy(cache.lengths))
        ids = torch.from_numpy(tokens).to(cache.device)
        logits: Tensor = self.graphed(ids) if self.graphed is not None else self._forward(ids)
        cache.lengths += 1
        return logits

    def _forward(self, tokens: Tensor) -> Tensor:
        cache = self.cache
        placed: dict[str, Any] = {self.cache_argument: cache, "use_cache": True}
        if cache.kv:  # a model without attention has no positions to be told
            keys = torch.arange(cache.attended, device=cache.device)
            mask = (keys[None, :] <= cache.positions[:, None])[:, None, None, :]
            if self.eager:
                mask = torch.zeros_like(mask, dtype=self.dtype).masked_fill(~mask, torch.finfo(self.dtype).min)
            placed |= {"position_ids": cache.positions[:, None], "attention_mask": mask}
        out = self.model(input_ids=tokens[:, None], **placed)
        return out.logits[:, -1].float()


#: what `smallest_batch` found in this process, by model, attention, dtype, threads and largest batch
_measured: dict[tuple[Any, ...], int] = {}


def smallest_batch(
    model: Any, cache_argument: str, prefill: Callable[[Sequence[Key]], list[SharedPrefix]], limit: int
) -> int:
    """The smallest of SIZES from which on, doubling, a decode step on CPU gives a row the same bits in any batch.

    Measured with batches of up to `limit` rows, because CPU kernels treat small batches, and the last elements of a batch, in
    other ways than the bulk: how small depends on kernels, heads, threads and processor. Where no size does (an expert of a
    mixture sees as few rows as are sent to it) the smallest is as good as any.
    """
    config, home = model.config.get_text_config(decoder=True), next(model.parameters())
    most = min(2 * SIZES[-1], limit)
    implementation = getattr(config, "_attn_implementation", "")
    settings = (home.dtype, torch.get_num_threads(), most)
    known = (type(model).__name__, implementation, config.to_json_string(), *settings)
    if known not in _measured:
        g = torch.Generator().manual_seed(0)
        ids = torch.randint(int(config.vocab_size), (8, 3), generator=g).tolist()
        prefixes = prefill([(tuple(row), None) for row in ids])
        tokens = torch.randint(int(config.vocab_size), (3, most), generator=g)

        def decode(rows: np.ndarray) -> list[Tensor]:
            cache = SlotCache(config, len(rows), home.device)
            cache.admit(list(range(len(rows))), [prefixes[r % len(prefixes)] for r in rows])
            step = Step(model, cache, cache_argument, cuda_graphs=False, notes={})
            return [step(t[rows].numpy()) for t in tokens]

        order = np.random.default_rng(0).permutation(most)
        whole = decode(np.arange(most))
        unlike = {
            size
            for size in SIZES
            if size < most
            and not all(torch.equal(a, b[order[:size]]) for a, b in zip(decode(order[:size]), whole, strict=True))
        }
        alike = [s for s in SIZES if s > max(unlike, default=0)]
        _measured[known] = (alike or SIZES)[0]
    return _measured[known]
