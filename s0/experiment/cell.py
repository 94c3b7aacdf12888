"""One config resolved against its model and task: what is sampled, verified, learned from and evaluated."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from s0.config.registry import make
from s0.config.schema import Config
from s0.data import Completion, Example, Outcome, Problem
from s0.engines.base import Engine, Request, request_seed
from s0.engines.padded import run_padded
from s0.errors import DataError
from s0.experiment.complete import Unit, complete, engine_generate
from s0.experiment.grading import Grader
from s0.experiment.resources import Resources
from s0.methods import Adapter, Method, make_method
from s0.state.initial import InitialState
from s0.storage import keys
from s0.storage.records import Evaluation
from s0.tasks import Task, task_of
from s0.tasks.base import Part

PARTS: tuple[Part, ...] = ("train", "heldout")


class Cell:
    """One config resolved against its model and task. Attributes are the nouns of the experiment."""

    def __init__(self, config: Config, resources: Resources):
        self.config, self.resources, self.store = config, resources, resources.store
        self.checkpoint = resources.checkpoint(config.model)
        self.task: Task = task_of(config.task)
        self.method: Method = make_method(config.method)
        self.engine: Engine = make("engine", config.engine)
        self.grader = Grader(self.task, config, resources.sandbox, resources.store)
        self.train_problems = self.task.problems("train")
        self.heldout = self.task.problems("heldout")
        #: problems whose own reference solution does not pass: id -> why (known after `check_references`)
        self.left_out: dict[str, str] | None = None
        self.wall: dict[str, float] = {}
        self._prompts: dict[str, tuple[int, ...]] = {}
        self.stop = tuple(self.task.stop)
        self.decoding = keys.decoding(self.engine, config.engine, self.stop, config.task.max_new_tokens)
        self.judging = self.grader.judging

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.wall[stage] = self.wall.get(stage, 0.0) + time.monotonic() - start

    def prompt(self, problem: Problem) -> tuple[int, ...]:
        if problem.id not in self._prompts:
            self._prompts[problem.id] = tuple(self.checkpoint.prompt_ids(self.task.messages(problem)))
        return self._prompts[problem.id]

    def record_key(self, seed: int) -> str:
        """Key of one record: config, model, data, prompts, and how answers end and are judged."""
        return keys.record(
            keys.config(self.config),
            self.checkpoint.key,
            self.task.dataset_hash(),
            keys.messages([self.task.messages(p) for part in PARTS for p in self.task.problems(part)]),
            self.decoding,
            self.judging,
            self.method,
            seed,
        )

    def check_references(self) -> None:
        """Judge the data's reference solutions, before anything is sampled, and leave out the problems whose own solution
        does not pass: no answer to them can be scored. Raises DataError where `task.gold` says refuse or nothing remains."""
        if self.left_out is not None:
            return
        self.left_out = {}
        if self.config.task.gold == "skip":
            return
        with self.timed("references"):
            failed = self.grader.references([*self.train_problems, *self.heldout])
        if not failed:
            return
        self.left_out = {i: f"{v.kind}: {v.detail}" for i, v in failed.items()}
        total = len(self.train_problems) + len(self.heldout)
        shown = "; ".join(f"{i} ({why})" for i, why in list(self.left_out.items())[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        what = (
            f"{self.task.name}: the data's own reference solution does not pass for {len(failed)} of {total} problems"
        )
        self.train_problems = [p for p in self.train_problems if p.id not in failed]
        self.heldout = [p for p in self.heldout if p.id not in failed]
        way = "mend the data, give what the tests need (sandbox.packages, task.grading_timeout_s, sandbox.judge=inside)"
        if self.config.task.gold == "refuse" or not self.train_problems or not self.heldout:
            raise DataError(f"{what}: {shown}{more}; {way}, or score them all the same with task.gold=skip")
        print(f"  {what}, they are left out: {shown}{more}", flush=True)

    # -- sampling and verifying the training problems ---------------------------------------------------------------

    def sample(self, seeds: list[int]) -> dict[int, list[list[Completion]]]:
        """seed -> per training problem its n completions, generated together and graded on the way."""
        self.check_references()
        t = self.config.task
        units: list[Unit] = []
        for seed in seeds:
            log = keys.samples(self.checkpoint.key, self.decoding, t.temperature, t.top_p, seed)
            for p in self.train_problems:
                ids = self.prompt(p)
                for k in range(t.samples_per_problem):
                    r = Request(
                        ids,
                        t.max_new_tokens,
                        None,
                        t.temperature,
                        t.top_p,
                        request_seed("sample", seed, p.id, k),
                    )
                    units.append(Unit(log, keys.unit(ids, k, r.seed), p, k, r))
        with self.timed("sample"):
            generate = engine_generate(self.engine, lambda: self.checkpoint.model, self.checkpoint.tokenizer, self.stop)
            done = complete(self.store, units, generate, self.grader, "sample")
        per_seed = len(self.train_problems) * t.samples_per_problem
        n = t.samples_per_problem
        out = {}
        for i, seed in enumerate(seeds):
            mine = [done[u.log, u.key] for u in units[i * per_seed : (i + 1) * per_seed]]
            out[seed] = [mine[j : j + n] for j in range(0, len(mine), n)]
        return out

    def examples(self, samples: list[list[Completion]]) -> tuple[list[Example], int]:
        """At most one passing completion per problem (the first), and how many completions passed."""
        kept, passed = [], 0
        for problem, completions in zip(self.train_problems, samples, strict=True):
            good = [c for c in completions if self.grader.verdict(problem, c.text).passed and c.token_ids]
            passed += len(good)
            if good:
                kept.append(Example(problem.id, list(self.prompt(problem)), good[0].token_ids))
        return kept, passed

    def subset(self, examples: list[Example], seed: int) -> list[Example]:
        """The first n solutions in an order shuffled by the seed (data efficiency), or all of them."""
        n = self.config.method.solutions
        if not n:
            return examples
        if n > len(examples):
            raise DataError(
                f"method.n_solutions={n}: seed {seed} has {len(examples)} verified solutions; lower it or sample more"
            )
        shuffled = list(examples)
        random.Random(f"n_solutions:{seed}").shuffle(shuffled)
        return shuffled[:n]

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def evaluate(self, wanted: list[EvalRequest]) -> list[Evaluation]:
        """Evaluations in order. Pure states share one batch (each row carries its own); others run in their context."""
        results: dict[int, Evaluation] = {}
        shared = [i for i, w in enumerate(wanted) if w.adapter is None and not w.legacy]
        if shared:
            for i, e in zip(shared, self._evaluate([wanted[i] for i in shared], None), strict=True):
                results[i] = e
        for i, w in enumerate(wanted):
            if i not in results:
                results[i] = self._evaluate([w], w.adapter)[0]
        return [results[i] for i in range(len(wanted))]

    def _evaluate(self, wanted: list[EvalRequest], adapter: Adapter | None) -> list[Evaluation]:
        t = self.config.task
        units: list[Unit] = []
        spans: list[tuple[int, int]] = []
        states: dict[Any, InitialState] = {}
        for n, w in enumerate(wanted):
            if w.state is not None:
                states[n] = w.state
            start = len(units)
            for p in w.problems:
                ids = self.prompt(p)
                for k in range(w.n_samples):
                    seed = 0 if w.n_samples == 1 else request_seed("eval", w.seed, p.id, k)
                    temperature, top_p = (0.0, 1.0) if w.n_samples == 1 else (t.eval_temperature, t.eval_top_p)
                    r = Request(ids, t.max_new_tokens, n if w.state is not None else None, temperature, top_p, seed)
                    units.append(Unit(w.log(self), keys.unit(ids, k, r.seed), p, k, r))
            spans.append((start, len(units)))
        tokenizer = self.checkpoint.tokenizer

        def generate(todo: list[Unit]) -> Iterator[tuple[int, Any]]:
            requests = [u.request for u in todo]
            if wanted[0].legacy:
                # a batch decides what its rows see, so batches are made of all problems even when some are stored
                place = {id(u): n for n, u in enumerate(units)}
                back = {place[id(u)]: n for n, u in enumerate(todo)}
                every = [u.request for u in units]
                batch = t.legacy_batch
                rows = run_padded(self.checkpoint.model, tokenizer, every, wanted[0].state, adapter, batch, set(back))
                yield from ((back[n], g) for n, g in rows)
            elif adapter is not None:
                with adapter.applied(self.checkpoint.model) as model:
                    yield from self.engine.run(model, tokenizer, requests, {}, self.stop)
            else:
                yield from self.engine.run(self.checkpoint.model, tokenizer, requests, states, self.stop)

        done = complete(self.store, units, generate, self.grader, wanted[0].stage)
        out = []
        for w, (start, end) in zip(wanted, spans, strict=True):
            outcomes = []
            for j in range(start, end, w.n_samples):
                group = units[j : j + w.n_samples]
                completions = [done[u.log, u.key] for u in group]
                verdicts = [self.grader.verdict(group[0].problem, c.text) for c in completions]
                outcomes.append(
                    Outcome(
                        group[0].problem.id,
                        completions[0].text,
                        verdicts[0],
                        w.n_samples,
                        sum(v.passed for v in verdicts),
                        {k: v for k, v in group[0].problem.meta.items() if k in self.task.breakdowns},
                    )
                )
            sampled = w.n_samples > 1
            out.append(
                Evaluation(
                    w.label,
                    "sampled" if sampled else "greedy",
                    outcomes,
                    w.n_samples,
                    t.eval_temperature if sampled else 0.0,
                    t.eval_top_p if sampled else 1.0,
                    "legacy" if w.legacy else "exact",
                    t.legacy_batch if w.legacy else 0,
                )
            )
        return out


@dataclass(frozen=True)
class EvalRequest:
    """One evaluation to make. `adapter_key` and `state` identify what is evaluated ("" and None: the base model)."""

    label: str
    stage: str
    problems: list[Problem]
    adapter_key: str = ""
    state: InitialState | None = None
    adapter: Adapter | None = None
    n_samples: int = 1
    seed: int = 0
    legacy: bool = False

    @classmethod
    def of(cls, label: str, stage: str, problems: list[Problem], key: str, adapter: Adapter | None) -> EvalRequest:
        """An adapter that is nothing but a state shares its batch with others."""
        state = adapter.state if adapter is not None else None
        return cls(label, stage, problems, key, state, None if state is not None else adapter)

    def log(self, cell: Cell) -> str:
        t = cell.config.task
        applied = [self.state.alpha, self.state.normalize] if self.state else self.adapter.use if self.adapter else None
        # a greedy evaluation has no seed: the baseline is one evaluation, shared by all seeds
        sampling = None if self.n_samples == 1 else [self.seed, t.eval_temperature, t.eval_top_p]
        padded = [t.legacy_batch, [p.id for p in self.problems], keys.sources_of(run_padded)] if self.legacy else None
        return keys.evaluation(cell.checkpoint.key, cell.decoding, self.adapter_key, applied, sampling, padded)
