"""The batched decode loop on transformers models: continuous batching with a state per row.

Rows of different seeds, alphas, methods and problems decode together; samples of one prompt and state are one row until they
draw different tokens; a finished row's slot is refilled at once; nothing is padded, so S0 is exact in every row. The number
of slots follows the rows there are, within a memory budget, and backs off when the device runs out of memory.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from s0.config.schema import HFEngineConfig
from s0.engines.base import Engine, Generated, Request, finish, sample, stop_ids, uniforms
from s0.engines.slots import SharedPrefix, SlotCache, harvest, round_up, row_bytes
from s0.engines.step import SIZES, Key, Step, smallest_batch
from s0.errors import ArchitectureError, ConfigError, S0Error
from s0.runtime.parallel import fewer_threads, keep_freed_memory, parallel_passes, run_parallel
from s0.settings import check
from s0.state.cache import S0Cache, rows_of
from s0.state.families import Layout, describe
from s0.state.initial import InitialState

#: on CPU, prompts of equal length are prefilled in batches of one fixed size up to this many tokens, longer ones alone
CPU_PREFILL = 512
#: below this many parameters a step is too short to share between threads on CPU (waking them takes longer), whatever the
#: batch: how many threads share a step shows in its bits
ONE_THREAD = 2_000_000
#: prompts of a small model prefilled at once where so many wait, so that every thread has batches to do
PREFILL_AHEAD = 128
#: uniform numbers drawn ahead per request
AHEAD = 64


class HFEngine(Engine):
    """Settings: `HFEngineConfig` (on CPU a prefill batch has at most 512 tokens, and nothing is captured).

    Given as one object or by name (`HFEngine(max_slots=8)`).

    share   decode samples of one prompt and state as one row until they differ; False is the reference
    """

    def __init__(
        self,
        config: HFEngineConfig | None = None,
        share: bool = True,
        **settings: Any,
    ):
        config = config or HFEngineConfig(**settings)
        check(config, "engine.")
        self.max_slots, self.memory_gb, self.prefill_tokens = config.max_slots, config.memory_gb, config.prefill_tokens
        self.cuda_graphs, self.share = config.cuda_graphs, share
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

    def slots_for(
        self, model: Any, layout: Layout | None, n: int, length: int, limit: int, least: int = SIZES[0]
    ) -> int:
        """Most slots for n rows within the memory budget: `least` times a power of two, or less where the limit is less."""
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
        slots = least
        while slots < n and slots * 2 <= want:
            slots *= 2
        return min(slots, want)


class _Loop:
    """One pass over pending requests with a fixed limit of rows.

    A slot decodes one row: the history of all requests attached to it. After a draw, the requests of a slot that drew the
    same token stay together; the first such group keeps the slot, the others fork into free ones. How many requests are
    attached at once follows how many rows the finished ones needed; if they need more than there are slots after all, some
    go back to the queue and start again, which gives the same tokens, because a row does not feel its mates. A row that is
    decoded finishes at least one request, so sharing never decodes more rows than one row per request would.
    """

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
        self.limit = self.slots = limit
        self.logits: Any = None
        self.cpu = self.device.type == "cpu"
        self.small = self.cpu and sum(p.numel() for p in model.parameters()) < ONE_THREAD
        #: prefills side by side: whole ones are worth a thread where a step is not
        self.n_parallel = parallel_passes(model) if self.small else 1
        if self.small:
            keep_freed_memory()
        #: layers in which a state starts, by state: rows of one prefill agree in this, because a model takes other
        #: kernels where no row starts anywhere
        self.starts: dict[Hashable, tuple[int, ...]] = {None: ()}

    # -- the loop -------------------------------------------------------------------------------------------------------

    def run(self, pending: list[int]) -> Iterator[tuple[int, Generated]]:
        with self._compute():
            self._plan(pending)
        while self.queue or self.rows:
            with self._compute():
                if self.rows:
                    self._shrink()
                    self.logits = self.step(self.next)
                self._admit()
                finished = self._draw()
            yield from finished

    @contextlib.contextmanager
    def _compute(self) -> Iterator[None]:
        with torch.inference_mode(), fewer_threads(1) if self.small else contextlib.nullcontext():
            yield

    def _plan(self, pending: list[int]) -> None:
        requests, n = self.requests, len(self.requests)
        longest = max(len(requests[i].prompt_ids) + requests[i].max_new_tokens for i in pending)
        self.least = (
            min(smallest_batch(self.model, self.cache_argument, self._prefilled, self.limit), self.limit)
            if self.cpu
            else SIZES[0]
        )
        self.most = self.engine.slots_for(self.model, self.layout, len(pending), longest, self.limit, self.least)
        # per request
        self.slot_of = np.full(n, -1)
        self.limits = np.array([r.max_new_tokens for r in requests])
        #: number of the request's (temperature, top_p), -1 for greedy
        settings: dict[tuple[float, float], int] = {}
        self.setting = np.array(
            [
                settings.setdefault((r.temperature, r.top_p), len(settings)) if r.temperature > 0 else -1
                for r in requests
            ]
        )
        self.settings = torch.tensor(list(settings) or [(1.0, 1.0)])
        self.draws = np.zeros((n if settings else 0, AHEAD))
        # neighbours share a prefill: equal prompts first, then equal lengths
        order = sorted(
            pending,
            key=lambda i: (
                len(requests[i].prompt_ids),
                requests[i].prompt_ids,
                str(requests[i].state),
                self.setting[i] < 0,
                i,
            ),
        )
        self.queue: deque[tuple[Key, list[int]]] = deque()
        for i in order:
            key = (requests[i].prompt_ids, requests[i].state)
            together = self.engine.share and self.queue and self.setting[i] >= 0
            if together and self.queue[-1][0] == key and self.setting[self.queue[-1][1][0]] >= 0:
                self.queue[-1][1].append(i)
            else:
                self.queue.append((key, [i]))
        #: requests in the queue, by what they need prefilled; a prefix lives until its last waiting request took it
        self.waiting = Counter({key: 0 for key, _ in self.queue})
        for key, members in self.queue:
            self.waiting[key] += len(members)
        self.prefixes: dict[Key, SharedPrefix] = {}
        #: rows being decoded
        self.rows = 0
        #: rows that ended and requests that did: how many rows a request needs
        self.rows_ended = self.requests_ended = 1
        # per slot
        self.slots = self._size(1) if self.cpu else self.most  # a captured graph is worth a fixed size
        self.counts = np.zeros(self.slots, dtype=np.int64)
        self.history = np.zeros((self.slots, int(self.limits[pending].max())), dtype=np.int64)
        self.next = np.zeros(self.slots, dtype=np.int64)
        self.cache = SlotCache(self.config, self.slots, self.device)
        self.step = Step(self.model, self.cache, self.cache_argument, self.engine.cuda_graphs, self.engine.notes)
        self.engine.notes |= {"slots": self.slots, "rows_decoded": 0, "tokens": 0, "started_again": 0}

    # -- rows and slots -------------------------------------------------------------------------------------------------

    def _size(self, rows: int) -> int:
        """Slots for `rows` rows."""
        size = self.least
        while size < rows:
            size *= 2
        return min(size, self.most)

    def _live(self) -> np.ndarray:
        """Slots that hold a row, ascending."""
        return np.unique(self.slot_of[self.slot_of >= 0])

    def _free(self, live: np.ndarray) -> np.ndarray:
        free = np.ones(self.slots, dtype=bool)
        free[live] = False
        return np.flatnonzero(free)

    def _resize(self, size: int, kept: np.ndarray) -> np.ndarray:
        """Change the number of slots; the rows in slots `kept` move to the front. Returns old slot -> new slot."""
        place = np.full(self.slots, -1)
        place[kept] = np.arange(len(kept))
        index = np.zeros(size, dtype=np.int64)
        index[: len(kept)] = kept
        self.cache.keep(index)
        self.cache.lengths[len(kept) :] = 0
        self.step.reset()
        if self.logits is not None:
            self.logits = self.logits[torch.from_numpy(index).to(self.device)]
        self.counts, self.history, self.next = self.counts[index], self.history[index], self.next[index]
        attached = self.slot_of >= 0
        self.slot_of[attached] = place[self.slot_of[attached]]
        self.slots = size
        self.engine.notes["slots"] = max(self.engine.notes["slots"], size)
        return place

    def _shrink(self) -> None:
        """Decode a smaller batch when few rows are left; while rows may still be added, only when few enough to stay so."""
        final = not self.queue and self.rows == (self.slot_of >= 0).sum()
        if (final or self.cpu) and self.rows <= self.slots * (0.5 if final else 0.375):
            size = self._size(self.rows)
            if size < self.slots:
                self._resize(size, self._live())

    def _admit(self) -> None:
        """Attach waiting requests while the rows they are expected to need fit."""
        if not self.queue:
            return
        per_request = self.rows_ended / self.requests_ended
        members = np.bincount(self.slot_of[self.slot_of >= 0])
        demand = float(np.maximum(1.0, per_request * members[members > 0]).sum())
        taken: list[tuple[Key, list[int]]] = []
        while self.queue and demand <= self.most - 1:
            key, waiting = self.queue.popleft()
            n = max(1, int((self.most - demand) / per_request))
            taken.append((key, waiting[:n]))
            demand += max(1.0, per_request * len(waiting[:n]))
            if waiting[n:]:
                self.queue.appendleft((key, waiting[n:]))
                break
        if not taken:
            return
        self._prefill([key for key, _ in taken])
        live = self._live()
        if len(live) + len(taken) > self.slots:
            self._resize(self._size(len(live) + len(taken)), live)
            live = np.arange(len(live))
        slots = self._free(live)[: len(taken)].tolist()
        prefixes = [self.prefixes[key] for key, _ in taken]
        self.cache.admit(slots, prefixes)
        if self.logits is None:
            self.logits = prefixes[0].logits.new_zeros(self.slots, len(prefixes[0].logits))
        self.logits[torch.tensor(slots, device=self.device)] = torch.stack([p.logits for p in prefixes])
        self.counts[slots] = 0
        for slot, (key, some) in zip(slots, taken, strict=True):
            self.slot_of[some] = slot
            for i in some:
                if self.setting[i] >= 0:
                    self.draws[i] = uniforms(self.requests[i].seed, AHEAD)
            self.rows += 1
            self.waiting[key] -= len(some)
            if not self.waiting[key]:
                del self.prefixes[key]

    # -- a token --------------------------------------------------------------------------------------------------------

    def _draw(self) -> list[tuple[int, Generated]]:
        """The next token of every attached request; requests that ended, and slots for the rows that go on."""
        attached = np.flatnonzero(self.slot_of >= 0)
        slot = self.slot_of[attached]
        at = self.counts[slot]
        token = self._tokens(attached, slot, at)
        if self.progress:
            self.progress(len(attached))
        self.engine.notes["tokens"] += len(attached)
        ended = (token[:, None] == self.eos).any(1) | (at + 1 >= self.limits[attached])
        # requests of a slot that drew the same token are one row from here: a child
        _, first, child = np.unique(slot * (1 + token.max()) + token, return_index=True, return_inverse=True)
        if self.stop:
            for c in np.unique(child[~ended]):
                tail = self.tokenizer.decode(self._ids(slot[first[c]], token[first[c]])[-32:])
                if any(s in tail for s in self.stop):
                    ended[child == c] = True
        finished: list[tuple[int, Generated]] = []
        texts: dict[int, Generated] = {}
        for j in np.flatnonzero(ended):
            c = child[j]
            if c not in texts:
                texts[c] = finish(self.tokenizer, self._ids(slot[j], token[j]), self.eos.tolist(), self.stop)
            finished.append((int(attached[j]), Generated(list(texts[c].token_ids), texts[c].text, texts[c].finish)))
        self.slot_of[attached[ended]] = -1
        goes_on = np.zeros(len(first), dtype=bool)
        goes_on[child[~ended]] = True
        heads = first[goes_on]
        self._go_on(attached[~ended], (np.cumsum(goes_on) - 1)[child[~ended]], slot[heads], token[heads])
        self.requests_ended += len(finished)
        return finished

    def _ids(self, slot: int, token: int) -> list[int]:
        ids: list[int] = self.history[slot, : self.counts[slot]].tolist()
        return [*ids, int(token)]

    def _go_on(self, requests: np.ndarray, row: np.ndarray, source: np.ndarray, token: np.ndarray) -> None:
        """Give every row that goes on a slot: the first one of a slot its parent's, the others a copy.

        requests, row  the requests that go on, and the row of each
        source, token  per row its parent's slot, ascending, and the token it drew
        """
        heir = np.ones(len(source), dtype=bool)
        heir[1:] = source[1:] != source[:-1]
        forks = np.flatnonzero(~heir)
        self.rows_ended += self.rows - int(heir.sum())
        if len(source) > self.slots and self.slots < self.most:
            source = self._resize(self._size(len(source)), source[heir])[source]
        free = self._free(source[heir])
        forks, refused = forks[: len(free)], forks[len(free) :]
        target = np.where(heir, source, -1)
        target[forks] = free[: len(forks)]
        if len(forks):
            self.cache.fork(source[forks], target[forks])
            self.counts[target[forks]] = self.counts[source[forks]]
            self.history[target[forks]] = self.history[source[forks]]
        self.slot_of[requests] = target[row]
        for n in refused:
            self._requeue(requests[row == n].tolist())
        rows = target[target >= 0]
        self.rows = len(rows)
        self.next[:] = 0
        self.next[rows] = token[target >= 0]
        self.history[rows, self.counts[rows]] = self.next[rows]
        self.counts[rows] += 1
        self.engine.notes["rows_decoded"] += len(rows)
        # idle slots decode a dummy token at position 0: their results are never read
        self.cache.lengths[self._free(rows)] = 0

    def _requeue(self, members: list[int]) -> None:
        key = (self.requests[members[0]].prompt_ids, self.requests[members[0]].state)
        self.queue.appendleft((key, members))
        self.waiting[key] += len(members)
        self.rows_ended += 1
        self.engine.notes["started_again"] += len(members)

    def _tokens(self, attached: np.ndarray, slot: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Next token of each attached request, given its slot and how many tokens it has."""
        greedy = self.logits.argmax(-1)
        hot = np.flatnonzero(self.setting[attached] >= 0)
        if not len(hot):
            return np.asarray(greedy.cpu().numpy()[slot])
        who, column = attached[hot], at[hot] % AHEAD
        for i, start in zip(who[column == 0], at[hot][column == 0], strict=True):
            if start:
                self.draws[i] = uniforms(self.requests[i].seed, AHEAD, int(start))
        # one distribution per slot and setting, with as many draws as requests share it
        kinds, group, size = np.unique(
            slot[hot] * len(self.settings) + self.setting[who], return_inverse=True, return_counts=True
        )
        order = np.argsort(group, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(hot)) - np.repeat(np.cumsum(size) - size, size)
        # padded to a multiple of 16 rows: where vectorised kernels end must not depend on how many there are
        u = np.zeros((round_up(len(kinds), 16), size.max()))
        u[group, rank] = self.draws[who, column]
        rows, setting = np.divmod(np.pad(kinds, (0, len(u) - len(kinds)), mode="edge"), len(self.settings))
        to = self.device
        temperature, top_p = self.settings[torch.from_numpy(setting)].to(to).unbind(1)
        drawn = sample(self.logits[torch.from_numpy(rows).to(to)], torch.from_numpy(u).to(to), temperature, top_p)
        both = torch.cat([greedy, drawn.flatten()]).cpu().numpy()
        token: np.ndarray = both[slot]
        token[hot] = both[len(greedy) :].reshape(u.shape)[group, rank]
        return token

    # -- prefill --------------------------------------------------------------------------------------------------------

    def _prefill(self, keys: list[Key]) -> None:
        """Make sure every key has its prefix.

        On CPU a batch has one size for all prompts of a length, filled with prompts that are needed next: the bits of a
        prefilled row depend on the size of its batch, and must not depend on how many others wait.
        """
        new = list(dict.fromkeys(k for k in keys if k not in self.prefixes))
        if new and self.n_parallel > 1:
            further = (k for k, _ in self.queue if k not in self.prefixes)
            new = list(dict.fromkeys([*new, *itertools.islice(further, max(PREFILL_AHEAD - len(new), 0))]))
        groups: dict[tuple[int, tuple[int, ...]], list[Key]] = {}
        for k in new:
            groups.setdefault((len(k[0]), self._starts(k[1])), []).append(k)
        batches: list[list[Key]] = []
        for (length, starts), members in groups.items():
            if not self.cpu:
                rows = max(1, self.engine.prefill_tokens // length)
            else:
                rows = self.least if self.least * length <= min(self.engine.prefill_tokens, CPU_PREFILL) else 1
                for k, _ in self.queue:
                    if len(members) % rows == 0 or len(k[0]) > length:
                        break
                    if (
                        len(k[0]) == length
                        and k not in self.prefixes
                        and k not in members
                        and self._starts(k[1]) == starts
                    ):
                        members.append(k)
            batches += (members[start : start + rows] for start in range(0, len(members), rows))
            if self.cpu:
                batches[-1] += batches[-1][-1:] * (rows - len(batches[-1]))
        for batch, prefixes in zip(
            batches, run_parallel(self._prefilled, batches, min(self.n_parallel, len(batches))), strict=True
        ):
            self.prefixes |= zip(batch, prefixes, strict=True)

    def _starts(self, state: Hashable) -> tuple[int, ...]:
        if state not in self.starts:
            effective = self.states[state].effective()
            self.starts[state] = tuple(i for i, t in sorted(effective.items()) if bool(t.any()))
        return self.starts[state]

    @torch.inference_mode()
    def _prefilled(self, keys: Sequence[Key]) -> list[SharedPrefix]:
        """One forward pass over prompts of equal length."""
        ids = torch.tensor([k[0] for k in keys], device=self.device)
        cache: DynamicCache
        if self.layout is None:
            cache = DynamicCache(config=self.config)
        else:
            cache = S0Cache(
                self.layout, rows_of(self.layout, [None if k[1] is None else self.states[k[1]] for k in keys])
            )
        keep = {self.cache_argument: cache, "use_cache": True, "logits_to_keep": 1}
        logits = self.model(input_ids=ids, **keep).logits
        # an adapter may have put keys and values of its own in front of the prompt (prefix tuning)
        seen = cache.get_seq_length() if self.layout is None else ids.shape[1]
        return [harvest(cache, row, seen, logits[row, -1].float()) for row in range(len(keys))]
