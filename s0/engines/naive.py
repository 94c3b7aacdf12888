"""`model.generate`, one request at a time, with the state injected: slow, simple, and what `hf` is compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from s0.config.schema import EngineConfig
from s0.engines.base import Engine, Generated, Request, choose_tokens, finish, stop_ids, uniforms
from s0.errors import ConfigError
from s0.state.families import describe
from s0.state.initial import InitialState
from s0.state.inject import Injection


class _Draw(LogitsProcessor):
    """Leaves one token possible per step: the one the shared sampling rule draws."""

    def __init__(self, request: Request):
        self.request, self.u, self.t = request, uniforms(request.seed, request.max_new_tokens), 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        r, device = self.request, scores.device
        u = torch.tensor(self.u[self.t : self.t + 1], device=device)
        token = choose_tokens(
            scores, u, torch.tensor([r.temperature], device=device), torch.tensor([r.top_p], device=device)
        )
        self.t += 1
        return torch.full_like(scores, float("-inf")).scatter_(1, token[:, None], 0.0)


class NaiveEngine(Engine):
    def __init__(self, config: EngineConfig | None = None) -> None:
        self.notes: dict[str, Any] = {"engine": "naive"}

    @torch.no_grad()
    def run(
        self,
        model: Any,
        tokenizer: Any,
        requests: Sequence[Request],
        states: Mapping[Hashable, InitialState] | None = None,
        stop: Sequence[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, Generated]]:
        states = states or {}
        eos = stop_ids(model, tokenizer)
        device = next(model.parameters()).device
        for index, request in enumerate(requests):
            if request.state is not None and request.state not in states:
                raise ConfigError(f"request {index}: state {request.state!r} is unknown; known: {list(states)}")
            state = states.get(request.state) if request.state is not None else None
            context: Any = Injection(model, describe(model), state) if state is not None else contextlib.nullcontext()
            ids = torch.tensor([request.prompt_ids], device=device)
            with context:
                out = model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=request.max_new_tokens,
                    do_sample=False,
                    eos_token_id=list(eos) or None,
                    pad_token_id=eos[0] if eos else 0,
                    logits_processor=LogitsProcessorList([_Draw(request)]),
                    **({"stop_strings": list(stop), "tokenizer": tokenizer} if stop else {}),
                )
            new = out[0, ids.shape[1] :].tolist()
            if progress:
                progress(len(new))
            yield index, finish(tokenizer, new, eos, stop)
