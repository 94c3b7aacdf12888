"""The batched decode loop on transformers models: continuous batching with a state per row.

Rows of different seeds, alphas, methods and problems decode together; a finished row's slot is refilled at once; a prompt
is prefilled once for all its samples (per state); nothing is padded, so S0 is exact in every row. The number of slots
comes from a memory budget and backs off when the device runs out of memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from s0.architectures import Layout, describe
from s0.engines.base import Engine, Generated, Request, choose_tokens, finish, stop_ids, uniforms
from s0.engines.slots import Prefix, SlotCache, harvest, round_up
from s0.errors import ArchitectureError, ConfigError, S0Error
from s0.inject import S0Cache, rows_of
from s0.state import InitialState

#: a decode batch is a power of two and at least this: matrix products then treat every row alike (see docs/engine.md)
MIN_SLOTS = 16


class HFEngine(Engine):
    """max_slots     upper limit of rows decoded together
    memory_gb        budget for states, keys and values of all slots (None: 60 % of free device memory, 4 GB on CPU)
    prefill_tokens   tokens of one prefill batch (prompts of equal length share one)
    cuda_graphs      capture the decode step on CUDA (static buffers); ignored on CPU
    """

    def __init__(
        self,
        max_slots: int = 256,
        memory_gb: float | None = None,
        prefill_tokens: int = 8192,
        cuda_graphs: bool = True,
        **_: Any,
    ):
        if max_slots < 1:
            raise ConfigError(f"engine.max_slots={max_slots}: must be at least 1")
        self.max_slots, self.memory_gb, self.prefill_tokens = max_slots, memory_gb, prefill_tokens
        self.cuda_graphs = cuda_graphs
        self.notes: dict[str, Any] = {"engine": "hf"}

    def run(
        self,
        model: Any,
        tokenizer: Any,
        requests: Sequence[Request],
        states: Mapping[Hashable, InitialState] | None = None,
        stop: Sequence[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, Generated]]:
        states = dict(states or {})
        for index, r in enumerate(requests):
            if r.state is not None and r.state not in states:
                raise ConfigError(f"request {index}: state {r.state!r} is unknown; known: {list(states)}")
        if not requests:
            return
        pending = list(range(len(requests)))
        limit = self.max_slots
        while pending:
            loop = _Loop(self, model, tokenizer, requests, states, stop, progress, limit)
            done: set[int] = set()
            try:
                for index, generated in loop.run(pending):
                    done.add(index)
                    yield index, generated
            except torch.cuda.OutOfMemoryError:
                if loop.slots <= 1:
                    raise S0Error(
                        "engine: out of device memory with one row; use a smaller model, dtype or max_new_tokens"
                    ) from None
                limit = max(loop.slots // 2, 1)
                self.notes["backed_off_to"] = limit
                torch.cuda.empty_cache()
            pending = [i for i in pending if i not in done]

    def slots_for(self, model: Any, layout: Layout | None, n: int, length: int, limit: int) -> int:
        """Slots within the memory budget: a power of two, at least MIN_SLOTS where the limit allows."""
        budget = self.memory_gb
        device = next(model.parameters()).device
        if budget is None:
            budget = 4.0 if device.type != "cuda" else 0.6 * torch.cuda.mem_get_info(device)[0] / 1e9
        per_row = row_bytes(model, layout, length)
        fits = int(budget * 1e9 // per_row)
        if fits < 1:
            raise ConfigError(
                f"engine.memory_gb={budget:.3g}: one row needs {per_row / 1e9:.3g} GB (state + keys/values for {length} "
                "tokens); raise it or lower max_new_tokens"
            )
        want = min(limit, fits)
        slots = MIN_SLOTS
        while slots < n and slots * 2 <= want:
            slots *= 2
        return min(slots, want) if want < MIN_SLOTS else slots


def row_bytes(model: Any, layout: Layout | None, length: int) -> int:
    """Bytes one slot needs: fp32 states plus keys and values of `length` tokens in the model's dtype."""
    config = model.config.get_text_config(decoder=True)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    attention = sum(k in ("full_attention", "hybrid", "attention") for k in kinds)
    heads = getattr(config, "num_key_value_heads", 0) or 0
    dim = getattr(config, "head_dim", None) or config.hidden_size // max(getattr(config, "num_attention_heads", 1), 1)
    width = next(model.parameters()).element_size()
    return (layout.bytes_per_row() if layout else 0) + 2 * attention * heads * dim * width * round_up(length) + 1


class _Loop:
    """One pass over pending requests with a fixed limit of slots."""

    def __init__(
        self,
        engine: HFEngine,
        model: Any,
        tokenizer: Any,
        requests: Sequence[Request],
        states: dict[Hashable, InitialState],
        stop: Sequence[str],
        progress: Callable[[int], None] | None,
        limit: int,
    ):
        self.engine, self.model, self.tokenizer, self.requests = engine, model, tokenizer, requests
        self.states, self.stop, self.progress = states, tuple(stop), progress
        self.device = next(model.parameters()).device
        self.config = model.config.get_text_config(decoder=True)
        kinds = set(getattr(self.config, "layer_types", None) or [])
        unkept = sorted(k for k in kinds if any(word in k for word in ("sliding", "chunked", "indexed", "sparse")))
        if unkept:
            raise ConfigError(
                f"engine.name=hf: {type(model).__name__} has {', '.join(unkept)} layers, whose caches are more than keys "
                "and values; use engine=naive"
            )
        try:
            self.layout: Layout | None = describe(model)
        except ArchitectureError:
            if any(r.state is not None for r in requests):
                raise
            self.layout = None  # a pure Transformer decodes here too; it just cannot take a state
        self.cache_argument = self.layout.cache_argument if self.layout else "past_key_values"
        self.eos = np.array(stop_ids(model, tokenizer), dtype=np.int64)
        self.limit = limit
        self.slots = limit

    @torch.inference_mode()
    def run(self, pending: list[int]) -> Iterator[tuple[int, Generated]]:
        requests = self.requests
        longest = max(len(requests[i].prompt_ids) + requests[i].max_new_tokens for i in pending)
        self.slots = self.engine.slots_for(self.model, self.layout, len(pending), longest, self.limit)
        self.engine.notes["slots"] = self.slots
        most = max(requests[i].max_new_tokens for i in pending)
        # neighbours share a prefill: equal prompts first, then equal lengths
        order = sorted(
            pending, key=lambda i: (len(requests[i].prompt_ids), requests[i].prompt_ids, str(requests[i].state), i)
        )
        queue: deque[int] = deque(order)
        prefixes: dict[tuple[Any, ...], tuple[Prefix, int]] = {}
        cache = SlotCache(self.config, self.slots, self.device)
        step = _Step(self.model, cache, self.engine, self.cache_argument)
        n = self.slots
        owner = np.full(n, -1)
        counts = np.zeros(n, dtype=np.int64)
        limits = np.ones(n, dtype=np.int64)
        out = np.zeros((n, most), dtype=np.int64)
        draws = torch.zeros(n, most, dtype=torch.float64, device=self.device)
        temperature = torch.zeros(n, device=self.device)
        top_p = torch.ones(n, device=self.device)
        logits: Tensor | None = None
        while queue or (owner >= 0).any():
            free = np.flatnonzero(owner < 0)
            if queue and len(free):
                taken = [queue.popleft() for _ in range(min(len(free), len(queue)))]
                self._prefill(taken, queue, prefixes)
                groups: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
                for slot, index in zip(free.tolist(), taken, strict=False):
                    groups.setdefault(self._key(index), []).append((slot, index))
                if logits is None:
                    some = prefixes[self._key(taken[0])][0].logits
                    logits = some.new_zeros((n, *some.shape))
                for key, members in groups.items():
                    prefix, left = prefixes.pop(key)
                    slots = torch.tensor([s for s, _ in members], device=self.device)
                    cache.admit(slots, prefix)
                    logits[slots] = prefix.logits
                    if left > len(members):
                        prefixes[key] = (prefix, left - len(members))
                    for slot, index in members:
                        r = requests[index]
                        owner[slot], counts[slot], limits[slot] = index, 0, r.max_new_tokens
                        temperature[slot], top_p[slot] = r.temperature, r.top_p
                        if r.temperature > 0:
                            draws[slot, : r.max_new_tokens] = torch.from_numpy(uniforms(r.seed, r.max_new_tokens))
            elif not queue and n > MIN_SLOTS and (owner >= 0).sum() <= n // 2:
                # the tail: fewer rows are left than half the slots, so decode a smaller batch
                alive = np.flatnonzero(owner >= 0)
                half = max(n // 2, MIN_SLOTS)
                spare = np.setdiff1d(np.arange(n), alive)[: half - len(alive)]
                kept = np.concatenate([alive, spare])
                index_ = torch.from_numpy(kept).to(self.device)
                cache.keep(index_)
                step.reset()
                owner, counts, limits, out = owner[kept], counts[kept], limits[kept], out[kept]
                draws, temperature, top_p = draws[index_], temperature[index_], top_p[index_]
                assert logits is not None
                logits = logits[index_]
                n = half
                continue
            active = owner >= 0
            assert logits is not None
            at = torch.from_numpy(np.minimum(counts, most - 1)).to(self.device)
            u = draws.gather(1, at[:, None]).squeeze(1)
            tokens = choose_tokens(logits, u, temperature, top_p)
            drawn = tokens.cpu().numpy()
            rows = np.flatnonzero(active)
            out[rows, counts[rows]] = drawn[rows]
            counts[rows] += 1
            if self.progress:
                self.progress(len(rows))
            ended = active & (np.isin(drawn, self.eos) | (counts >= limits))
            if self.stop:
                for row in np.flatnonzero(active & ~ended):
                    tail = self.tokenizer.decode(out[row, max(0, counts[row] - 32) : counts[row]].tolist())
                    ended[row] = any(s in tail for s in self.stop)
            for row in np.flatnonzero(ended):
                ids = out[row, : counts[row]].tolist()
                yield int(owner[row]), finish(self.tokenizer, ids, self.eos.tolist(), self.stop)
                owner[row] = -1
            if (owner >= 0).any():
                # idle slots decode a dummy token at position 0: their results are never read
                idle = torch.from_numpy(owner < 0).to(self.device)
                tokens = tokens.masked_fill(idle, 0)
                cache.positions.masked_fill_(idle, 0)
                logits = step(tokens)

    def _key(self, index: int) -> tuple[Any, ...]:
        r = self.requests[index]
        return (r.prompt_ids, r.state)

    def _prefill(
        self, taken: list[int], queue: deque[int], prefixes: dict[tuple[Any, ...], tuple[Prefix, int]]
    ) -> None:
        """Make sure every taken request has its prefix; a prefix lives until its last waiting sample took it."""
        waiting: dict[tuple[Any, ...], int] = {}
        for i in taken:
            waiting[self._key(i)] = waiting.get(self._key(i), 0) + 1
        new = [k for k in waiting if k not in prefixes]
        if not new:
            return
        wanted = set(new)
        for i in queue:  # equal requests are neighbours, so this stops at the first other prompt
            if self._key(i) not in wanted:
                break
            waiting[self._key(i)] += 1
        by_length: dict[int, list[tuple[Any, ...]]] = {}
        for k in new:
            by_length.setdefault(len(k[0]), []).append(k)
        for length, keys in by_length.items():
            rows = max(1, self.engine.prefill_tokens // length)
            for start in range(0, len(keys), rows):
                part = keys[start : start + rows]
                ids = torch.tensor([k[0] for k in part], device=self.device)
                cache: DynamicCache
                if self.layout is None:
                    cache = DynamicCache(config=self.config)
                else:
                    chosen = [None if k[1] is None else self.states[k[1]] for k in part]
                    cache = S0Cache(self.layout, rows_of(self.layout, chosen))
                keep = {self.cache_argument: cache, "use_cache": True, "logits_to_keep": 1}
                logits = self.model(input_ids=ids, **keep).logits
                # an adapter may have put keys and values of its own in front of the prompt (prefix tuning)
                seen = cache.get_seq_length() if self.layout is None else length
                for row, k in enumerate(part):
                    prefixes[k] = (harvest(cache, row, seen, logits[row, -1].float()), waiting[k])


class _Step:
    """One decode step for all slots; on CUDA optionally a captured graph per (slots, attended length)."""

    def __init__(self, model: Any, cache: SlotCache, engine: HFEngine, cache_argument: str):
        self.model, self.cache, self.cache_argument = model, cache, cache_argument
        self.graphed: Any = None
        if engine.cuda_graphs and cache.device.type == "cuda":
            from s0.engines.graphs import GraphedDecode

            self.graphed = GraphedDecode(self._forward, cache, engine.notes)

    def reset(self) -> None:
        if self.graphed is not None:
            self.graphed.reset()

    def __call__(self, tokens: Tensor) -> Tensor:
        cache = self.cache
        furthest = int(cache.positions.max()) + 1
        cache.reserve(furthest)
        cache.attended = min(round_up(furthest), cache.capacity)
        logits = self.graphed(tokens) if self.graphed is not None else self._forward(tokens)
        cache.positions += 1
        return logits

    def _forward(self, tokens: Tensor) -> Tensor:
        cache = self.cache
        mask = None
        if cache.kv:
            keys = torch.arange(cache.attended, device=cache.device)
            visible = keys[None, :] <= cache.positions[:, None]
            mask = visible[:, None, None, :]
            if self.model.config.get_text_config(decoder=True)._attn_implementation == "eager":
                dtype = next(self.model.parameters()).dtype
                mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
        placed: dict[str, Any] = {self.cache_argument: cache, "use_cache": True}
        if cache.kv:  # a model without attention has no positions to be told
            placed |= {"position_ids": cache.positions[:, None], "attention_mask": mask}
        out = self.model(input_ids=tokens[:, None], **placed)
        return out.logits[:, -1].float()
