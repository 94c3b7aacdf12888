"""One cell of an experiment (a model, a task, a method) over its seeds, from config to records.

    config -> problems -> completions -> verdicts -> examples -> adapter -> evaluation -> record

`run_cell` is the whole experiment on one screen. Every stage asks the store first, so another alpha, method or seed
reuses what it can and a killed run goes on where it stopped.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s0.config.schema import config_hash
from s0.data import Completion, Example, Outcome, Problem, digest
from s0.engines import make_engine
from s0.engines.base import Engine, Request, request_seed
from s0.errors import DataError, S0Error
from s0.experiment.checkpoint import Subject
from s0.experiment.complete import Unit, adapter_key, complete, engine_generate, train, unit_key
from s0.experiment.grading import Grader
from s0.methods import Adapter, Method, TrainingSet, make_method
from s0.runtime.environment import describe_environment
from s0.state.initial import InitialState
from s0.storage.records import Evaluation, Record, TrainingSummary, find_record, write_record
from s0.storage.store import Store
from s0.tasks import Task, make_task

NO_SOLUTIONS = "none of the {n} sampled completions passed verification, so there is nothing to train on"


@dataclass
class Lab:
    """What cells share: the store, loaded models, and one sandbox. Use as a context manager."""

    store: Store
    sandbox_settings: dict[str, Any]
    subjects: dict[str, Subject] = field(default_factory=dict)
    _sandbox: Any = None

    def subject(self, config: dict[str, Any]) -> Subject:
        key = digest(config)
        if key not in self.subjects:
            self.subjects.clear()  # one model in memory at a time
            self.subjects[key] = Subject(config, self.store.root)
        return self.subjects[key]

    def sandbox(self) -> Any:
        if self._sandbox is None:
            from s0.sandbox import Sandbox

            s = self.sandbox_settings
            self._sandbox = Sandbox(
                workers=s["workers"], memory_mb=s["memory_mb"], allow_unisolated=s["allow_unisolated"]
            )
            self._sandbox.__enter__()
        return self._sandbox

    def tier(self) -> str:
        return str(self.sandbox().tier)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._sandbox is not None:
            self._sandbox.__exit__(*exc)
            self._sandbox = None


class Cell:
    """One config resolved against its model and task. Attributes are the nouns of the experiment."""

    def __init__(self, config: dict[str, Any], lab: Lab):
        self.config, self.lab, self.store = config, lab, lab.store
        self.subject = lab.subject(config["model"])
        self.task: Task = make_task(config["task"]["name"], config["task"])
        self.method: Method = make_method(config["method"])
        self.engine: Engine = make_engine(**config["engine"])
        self.grader = Grader(self.task, {**config["task"], **config["sandbox"]}, lab.sandbox, lab.store)
        self.train_problems = self.task.problems("train")
        self.heldout = self.task.problems("heldout")
        self.wall: dict[str, float] = {}
        self._prompts: dict[str, tuple[int, ...]] = {}
        self.stop = tuple(self.task.stop)
        #: an evaluation of the same answers under a stop rule, engine or padding rule of its own is another one
        self.decoding = {"engine": config["engine"]["name"], "stop": list(self.stop)}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.wall[stage] = self.wall.get(stage, 0.0) + time.monotonic() - start

    def prompt(self, problem: Problem) -> tuple[int, ...]:
        if problem.id not in self._prompts:
            self._prompts[problem.id] = tuple(self.subject.prompt_ids(self.task.messages(problem)))
        return self._prompts[problem.id]

    def record_key(self, seed: int) -> str:
        """Key of one record: config, model, data, and the versions that computed it."""
        return digest(
            {
                "config": config_hash(self.config),
                "model": self.subject.key,
                "data": self.task.dataset_hash(),
                "seed": seed,
            }
        )

    # -- sampling and verifying the training problems ---------------------------------------------------------------

    def sample(self, seeds: list[int]) -> dict[int, list[list[Completion]]]:
        """seed -> per training problem its n completions, generated together and graded on the way."""
        t = self.config["task"]
        units: list[Unit] = []
        for seed in seeds:
            log = digest(
                {
                    "what": "samples",
                    "model": self.subject.key,
                    "T": t["temperature"],
                    "top_p": t["top_p"],
                    "max_new": t["max_new_tokens"],
                    "seed": seed,
                    **self.decoding,
                }
            )
            for p in self.train_problems:
                ids = self.prompt(p)
                for k in range(t["samples_per_problem"]):
                    r = Request(
                        ids,
                        t["max_new_tokens"],
                        None,
                        t["temperature"],
                        t["top_p"],
                        request_seed("sample", seed, p.id, k),
                    )
                    units.append(Unit(log, unit_key(ids, k), p, k, r))
        with self.timed("sample"):
            generate = engine_generate(self.engine, lambda: self.subject.model, self.subject.tokenizer, self.stop)
            done = complete(self.store, units, generate, self.grader, "sample")
        per_seed = len(self.train_problems) * t["samples_per_problem"]
        n = t["samples_per_problem"]
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
        n = self.config["method"].get("n_solutions")
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
        t = self.config["task"]
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
                    temperature, top_p = (0.0, 1.0) if w.n_samples == 1 else (t["eval_temperature"], t["eval_top_p"])
                    r = Request(ids, t["max_new_tokens"], n if w.state is not None else None, temperature, top_p, seed)
                    units.append(Unit(w.log(self), unit_key(ids, k), p, k, r))
            spans.append((start, len(units)))
        tokenizer = self.subject.tokenizer

        def generate(todo: list[Unit]) -> Iterator[tuple[int, Any]]:
            requests = [u.request for u in todo]
            if wanted[0].legacy:
                from s0.engines.padded import run_padded

                # a batch decides what its rows see, so batches are made of all problems even when some are stored
                place = {id(u): n for n, u in enumerate(units)}
                back = {place[id(u)]: n for n, u in enumerate(todo)}
                every = [u.request for u in units]
                batch = t["legacy_batch"]
                rows = run_padded(self.subject.model, tokenizer, every, wanted[0].state, adapter, batch, set(back))
                yield from ((back[n], g) for n, g in rows)
            elif adapter is not None:
                with adapter.applied(self.subject.model) as model:
                    yield from self.engine.run(model, tokenizer, requests, {}, self.stop)
            else:
                yield from self.engine.run(self.subject.model, tokenizer, requests, states, self.stop)

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
                    t["eval_temperature"] if sampled else 0.0,
                    t["eval_top_p"] if sampled else 1.0,
                    "legacy" if w.legacy else "exact",
                    t["legacy_batch"] if w.legacy else 0,
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

    def log(self, cell: Cell) -> str:
        t = cell.config["task"]
        applied = [self.state.alpha, self.state.normalize] if self.state else self.adapter.use if self.adapter else None
        return digest(
            {
                "what": "evaluation",
                "model": cell.subject.key,
                "adapter": self.adapter_key,
                "applied": applied,
                "max_new": t["max_new_tokens"],
                # a greedy evaluation has no seed: the baseline is one evaluation, shared by all seeds
                "sampling": None if self.n_samples == 1 else [self.seed, t["eval_temperature"], t["eval_top_p"]],
                "legacy": [t["legacy_batch"], [p.id for p in self.problems]] if self.legacy else None,
                **cell.decoding,
            }
        )


def run_cell(
    config: dict[str, Any], lab: Lab, command: str = "", spent: dict[str, float] | None = None
) -> list[Record]:
    """All records of one cell, one per seed: found if they exist, computed otherwise. `spent` seconds by stage were
    already used on it (s0.sweep.joint). Raises S0Error."""
    from s0.experiment.alpha import choose_alphas, decide_alphas, evaluations_of, trainings_of

    cell = Cell(config, lab)
    cell.wall |= spent or {}
    try:
        folder = Path(config["records"])
        keys = {seed: cell.record_key(seed) for seed in config["seed"]}
        found = {seed: r for seed in config["seed"] if (r := find_record(folder, keys[seed]))}
        todo = [seed for seed in config["seed"] if seed not in found]
        if todo:
            print(
                f"  {cell.subject.name} / {cell.task.name} / {cell.method.label()}: seeds {_ranges(todo)}", flush=True
            )
            samples = cell.sample(todo) if cell.method.name != "none" else {seed: [] for seed in todo}
            solutions: dict[int, tuple[list[Example], int]] = {
                s: cell.examples(samples[s]) if samples[s] else ([], 0) for s in todo
            }
            trainable = [s for s in todo if solutions[s][0] or cell.method.name == "none"]
            sets = {s: TrainingSet(s, cell.subset(solutions[s][0], s)) for s in trainable}
            adapters: dict[int, Adapter] = {}
            alphas: dict[int, AlphaChoice] = {}
            if cell.method.name != "none" and trainable:
                with cell.timed("train"):
                    alphas, folds = choose_alphas(cell, sets)
                    trained = train(cell.store, cell.subject, trainings_of(cell, sets, folds), config["train"])
                    decide_alphas(cell, alphas, folds, trained)
                    for s in trainable:
                        adapters[s] = trained[adapter_key(cell.subject, cell.method, sets[s])]
            with cell.timed("evaluate"):
                evaluated = evaluations_of(cell, trainable, sets, adapters, alphas)
            environment = describe_environment(cell.subject, lab, cell.engine, command)
            for seed in todo:
                record, problems = _record(
                    cell,
                    seed,
                    keys[seed],
                    solutions[seed],
                    adapters.get(seed),
                    alphas.get(seed),
                    evaluated,
                    environment,
                )
                write_record(folder, record, problems)
                found[seed] = record
        return [found[seed] for seed in config["seed"]]
    finally:
        cell.grader.close()


@dataclass
class AlphaChoice:
    """How alpha was set for one seed; see s0.experiment.alpha.choose_alphas."""

    alpha: float | None
    source: str
    scores: dict[str, float] = field(default_factory=dict)


def _record(
    cell: Cell,
    seed: int,
    key: str,
    solutions: tuple[list[Example], int],
    adapter: Adapter | None,
    alpha: AlphaChoice | None,
    evaluated: dict[str, Any],
    environment: dict[str, Any],
) -> tuple[Record, list[dict[str, Any]]]:
    config, task = cell.config, cell.config["task"]
    examples, passed = solutions
    none = cell.method.name == "none"
    n_samples = 0 if none else len(cell.train_problems) * task["samples_per_problem"]
    solved = adapter is not None or none
    state = adapter.state if adapter else None
    norms = state.norms() if state else {}
    curve = adapter.curve if adapter else None
    used = config["method"].get("n_solutions") or len(examples)
    baseline: Evaluation | None = evaluated["baseline"].get(seed)
    tuned: Evaluation | None = evaluated["tuned"].get(seed)
    controls: dict[str, Evaluation] = evaluated["controls"].get(seed, {})
    record = Record(
        key=key,
        status="ok" if solved else "no_solutions",
        experiment=config["experiment"],
        model=cell.subject.name,
        task=cell.task.name,
        method=cell.method.name,
        seed=seed,
        alpha=alpha.alpha if alpha else None,
        error=None if solved else NO_SOLUTIONS.format(n=n_samples),
        config={**config, "seed": seed},
        config_hash=config_hash(config),
        model_info={**cell.subject.info(), **cell.subject.loaded_info(), "chat_template": cell.subject.chat_template},
        task_info={
            "name": cell.task.name,
            "dataset_hash": cell.task.dataset_hash(),
            "n_train": len(cell.train_problems),
            "n_heldout": len(cell.heldout),
            "source": str(getattr(cell.task, "source", "")),
            "grading": str(getattr(cell.task, "grading", "")),
        },
        method_info={
            "label": cell.method.label(),
            "trainable_params": adapter.trainable_params if adapter else 0,
            "inference_cost": cell.method.inference_cost,
        },
        training=TrainingSummary(
            n_problems=0 if none else len(cell.train_problems),
            n_samples=n_samples,
            n_passed=passed,
            n_solutions=0 if none else min(used, len(examples)),
            losses=curve.losses if curve else [],
            grad_norms=curve.grad_norms if curve else [],
            avg_state_norm=sum(norms.values()) / len(norms) if norms else 0.0,
            alpha=alpha.alpha if alpha else None,
            alpha_source=alpha.source if alpha else "",
            alpha_scores=alpha.scores if alpha else {},
        ),
        baseline=baseline,
        tuned=tuned,
        controls=controls,
        baseline_key=evaluated["baseline_key"].get(seed, ""),
        environment=environment,
        wall_s={**{k: round(v, 3) for k, v in cell.wall.items()}, "grade": round(cell.grader.seconds, 3)},
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    return record, problem_lines(cell, baseline, tuned, controls)


def problem_lines(
    cell: Cell, baseline: Evaluation | None, tuned: Evaluation | None, controls: dict[str, Evaluation]
) -> list[dict[str, Any]]:
    """One JSON line per held-out problem: prompt, and every evaluation's completion and verdict."""
    named = {"baseline": baseline, "tuned": tuned, **controls}
    lines = []
    for n, p in enumerate(cell.heldout):
        line: dict[str, Any] = {"id": p.id, "prompt": p.prompt, "meta": p.meta}
        for label, e in named.items():
            if e is not None:
                line[label] = e.outcomes[n].to_json()
        lines.append(line)
    return lines


def _ranges(seeds: list[int]) -> str:
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}..{seeds[-1]}"
    return ",".join(map(str, seeds))


__all__ = ["AlphaChoice", "Cell", "EvalRequest", "Lab", "S0Error", "run_cell"]
