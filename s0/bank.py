"""Many states, one model: a bank of named states, chosen row by row.

    bank = StateBank(model, tokenizer, {"sql": sql_state, "python": python_state})
    bank.generate(["...", "...", "..."], states=["sql", "python", None], max_new_tokens=64)

A state costs nothing per decoded token: it only says where a row's recurrence starts. States come and go while others
are generating; a call keeps the states it started with.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from s0.data import Example
from s0.errors import ConfigError
from s0.runtime.chat import prompt_ids
from s0.state.cache import S0Cache, rows_of
from s0.state.compat import device_of
from s0.state.families import describe
from s0.state.initial import InitialState
from s0.state.inject import Injection, self_test
from s0.training.fit import fit_states
from s0.training.jobs import FitJob
from s0.training.rows import pad_id

if TYPE_CHECKING:
    from s0.training.jobs import FitConfig

#: what a row may start from: a name, a weighted mix of names, a state outside the bank, or nothing
Choice = str | Mapping[str, float] | InitialState | None


class StateBank:
    """Named states of one loaded model.

    All methods may be called from several threads: the names are behind a lock, and `generate` runs one batch at a time
    (the hooks that make pads exact belong to the model). Raises ArchitectureError for a model S0 does not support.
    """

    def __init__(self, model: nn.Module, tokenizer: Any = None, states: Mapping[str, InitialState] | None = None):
        self.model, self.tokenizer = model, tokenizer
        self.layout = describe(model)
        self._states: dict[str, InitialState] = {}
        self._names = threading.RLock()
        self._running = threading.Lock()
        for name, state in (states or {}).items():
            self.add(name, state)

    # -- names ----------------------------------------------------------------------------------------------------

    def add(self, name: str, state: InitialState | str | Path, replace: bool = False) -> None:
        """Register a state, or load one from a folder or Hub repository. Raises ArchitectureError where it does not fit,
        ConfigError for a name that is taken (unless `replace`)."""
        loaded = state if isinstance(state, InitialState) else InitialState.from_pretrained(state, layout=self.layout)
        loaded.check(self.layout)
        if not isinstance(name, str) or not name:
            raise ConfigError(f"state name {name!r}: must be a non-empty string")
        with self._names:
            if name in self._states and not replace:
                raise ConfigError(f"state {name!r}: already in the bank; remove it first, or add it with replace=True")
            self._states[name] = loaded

    def remove(self, name: str) -> InitialState:
        """Take a state out of the bank and return it; batches under way keep using it."""
        with self._names:
            self.get(name)
            return self._states.pop(name)

    def get(self, name: str) -> InitialState:
        with self._names:
            if name not in self._states:
                known = ", ".join(sorted(self._states)) or "none yet"
                raise ConfigError(f"state {name!r}: not in the bank; it holds: {known}")
            return self._states[name]

    def names(self) -> list[str]:
        with self._names:
            return sorted(self._states)

    def __contains__(self, name: object) -> bool:
        with self._names:
            return name in self._states

    def __len__(self) -> int:
        with self._names:
            return len(self._states)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def mix(self, weights: Mapping[str, float]) -> InitialState:
        """Linear combination of effective states (alpha included), for example {"sql": 0.7, "short": 0.3}."""
        if not weights:
            raise ConfigError("mix={}: name at least one state, as in {'sql': 0.7, 'short': 0.3}")
        with self._names:
            states = [self.get(name) for name in weights]
        return InitialState.mix(states, list(weights.values()))

    # -- use ------------------------------------------------------------------------------------------------------

    def choose(self, states: Sequence[Choice]) -> list[InitialState | None]:
        """One state (or None) per entry, as they stand now; equal entries share one object."""
        chosen: dict[Any, InitialState] = {}
        out: list[InitialState | None] = []
        with self._names:
            for entry in states:
                if entry is None or isinstance(entry, InitialState):
                    if entry is not None:
                        entry.check(self.layout)
                    out.append(entry)
                    continue
                key = entry if isinstance(entry, str) else tuple(sorted(entry.items()))
                if key not in chosen:
                    chosen[key] = self.get(entry) if isinstance(entry, str) else self.mix(entry)
                out.append(chosen[key])
        return out

    def rows(self, states: Sequence[Choice]) -> dict[int, Tensor]:
        """layer -> fp32 [len(states), *shape]: starts for an `S0Cache`, or for a `TrainingCache` to learn on from."""
        return rows_of(self.layout, self.choose(states))

    def cache(self, states: Sequence[Choice]) -> S0Cache:
        """A fresh cache for a direct call `model(..., past_key_values=cache)`; pads need `s0.state.pads.exact_pads` as well."""
        return S0Cache(self.layout, self.rows(states))

    @torch.no_grad()
    def generate(self, prompts: Tensor | Sequence[Any], states: Sequence[Choice] | Choice = None, **kwargs: Any) -> Any:
        """`model.generate` with a state per row.

        prompts   a tensor [batch, length] of token ids (left-padded, with `attention_mask=...`), a list of token id lists,
                  a list of texts, or a list of chats (lists of {"role", "content"}; thinking disabled)
        states    one choice per prompt, or one for all: a name, {name: weight}, an InitialState, None (base model)
        returns   for a tensor what `model.generate` returns; for id lists the new token ids; else the new texts

        With `num_return_sequences=n` each prompt's n results stand together.
        """
        batch, kind = self._batch(prompts, kwargs)
        n = batch["input_ids"].shape[0]
        per_row = list(states) if isinstance(states, Sequence) and not isinstance(states, str) else [states] * n
        if len(per_row) != n:
            raise ConfigError(f"states: {len(per_row)} for {n} prompts; give one per prompt, or one for all")
        chosen = self.choose(per_row)
        with self._running, Injection(self.model, self.layout, chosen):
            out = self.model.generate(**batch, **kwargs)  # type: ignore[operator]
        if kind == "tensor":
            return out
        new = getattr(out, "sequences", out)[:, batch["input_ids"].shape[1] :].tolist()
        return new if kind == "ids" else self.tokenizer.batch_decode(new, skip_special_tokens=True)

    def _batch(self, prompts: Any, kwargs: dict[str, Any]) -> tuple[dict[str, Tensor], str]:
        device = device_of(self.model)
        if isinstance(prompts, Tensor):
            mask = kwargs.pop("attention_mask", None)
            mask = torch.ones_like(prompts) if mask is None else mask
            return {"input_ids": prompts.to(device), "attention_mask": mask.to(device)}, "tensor"
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts or any(not p for p in prompts):
            raise ConfigError("prompts: empty; a recurrent model needs at least one token to start from")
        kind = "ids" if isinstance(prompts[0][0], int) else "text"
        ids = prompts if kind == "ids" else [self._encode(p) for p in prompts]
        width = max(map(len, ids))
        pad = kwargs.setdefault("pad_token_id", pad_id(self.model, self.tokenizer))
        tokens = torch.full((len(ids), width), pad)
        mask = torch.zeros_like(tokens)
        for r, row in enumerate(ids):
            tokens[r, width - len(row) :], mask[r, width - len(row) :] = torch.tensor(row), 1
        return {"input_ids": tokens.to(device), "attention_mask": mask.to(device)}, kind

    def _encode(self, prompt: Any) -> list[int]:
        if self.tokenizer is None:
            raise ConfigError("prompts: texts need a tokenizer; give StateBank(model, tokenizer) or token ids")
        if isinstance(prompt, str):
            return self.tokenizer(prompt).input_ids
        return prompt_ids(self.tokenizer, prompt)

    def fit(self, examples: Mapping[str, list[Example]], config: FitConfig, **kwargs: Any) -> dict[str, list[float]]:
        """Learn one state per name, all in the same batches, and put them into the bank (replacing equal names).

        Each row of a training batch starts from the state of its own name; the result equals separate training.
        Returns name -> loss per step. Raises what `s0.training.fit.fit_states` raises, S0Error for a state without effect.
        """
        with self._running:
            jobs = [FitJob(list(rows), config) for rows in examples.values()]
            results = fit_states(self.model, self.layout, jobs, **kwargs)
            for result in results:
                self_test(self.model, self.layout, result.state)
        for name, result in zip(examples, results, strict=True):
            self.add(name, result.state, replace=True)
        return {name: r.losses for name, r in zip(examples, results, strict=True)}
