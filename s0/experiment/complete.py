"""The stages of an experiment, each resumable and shared through the store: complete (generate + grade) and train."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s0.data import Completion, Problem
from s0.engines.base import Engine, Request
from s0.experiment.grading import Grader
from s0.runtime.progress import Bar, bar
from s0.state.initial import InitialState
from s0.storage.store import Log, Store

#: finished rows are stored at least this often (rows, seconds): what a kill can cost
FLUSH_ROWS, FLUSH_SECONDS = 64, 1.0


@dataclass(frozen=True)
class Unit:
    """One completion to make: where it is stored (log name and unit key), for which problem, and how to generate it."""

    log: str
    key: str
    problem: Problem
    sample: int
    request: Request


def complete(
    store: Store,
    units: Sequence[Unit],
    generate: Callable[[list[Unit]], Iterator[tuple[int, Any]]],
    grader: Grader | None,
    label: str,
) -> dict[tuple[str, str], Completion]:
    """Completions of all units: stored ones are read, missing ones generated, each log by one process at a time.

    `generate` yields (index into its list, Generated) in any order. Everything a killed run had stored is kept.
    """
    logs: dict[str, Log] = {u.log: store.log("completions", u.log) for u in units}

    def missing(names: set[str]) -> list[Unit]:
        known = {n: logs[n].refresh() for n in names}
        return [u for u in units if u.log in names and u.key not in known[u.log]]

    def run(todo: list[Unit], progress: Bar) -> None:
        buffers: dict[str, dict[str, Any]] = {}
        waiting, last = 0, time.monotonic()

        def flush() -> None:
            nonlocal waiting, last
            for name, rows in buffers.items():
                logs[name].append(rows)
            buffers.clear()
            waiting, last = 0, time.monotonic()

        try:
            for index, g in generate(todo):
                u = todo[index]
                buffers.setdefault(u.log, {})[u.key] = {"ids": g.token_ids, "text": g.text, "finish": g.finish}
                waiting += 1
                if grader:
                    grader.submit(u.problem, g.text)
                if waiting >= FLUSH_ROWS or time.monotonic() - last > FLUSH_SECONDS:
                    flush()
                progress.advance()
        finally:
            flush()

    if grader:
        # answers stored by an earlier run that was killed before grading them
        for name, log in logs.items():
            known = log.refresh()
            for u in units:
                if u.log == name and u.key in known:
                    grader.submit(u.problem, known[u.key]["text"])
    absent = missing(set(logs))
    distinct = {(u.log, u.key) for u in units}
    store.count("completions", len(distinct) - len({(u.log, u.key) for u in absent}), len(distinct))
    open_logs = {u.log for u in absent}
    if open_logs:
        todo_count = len(missing(open_logs))
        with bar(label, todo_count, "completions") as progress:
            with contextlib.ExitStack() as claims:
                mine = {
                    n for n in sorted(open_logs) if claims.enter_context(store.claim(f"completions-{n}", wait=False))
                }
                todo = missing(mine)
                if todo:
                    run(todo, progress)
                if grader:
                    grader.wait()
            for name in sorted(open_logs - mine):
                with store.claim(f"completions-{name}"):
                    todo = missing({name})
                    if todo:
                        run(todo, progress)
                    if grader:
                        grader.wait()
    out: dict[tuple[str, str], Completion] = {}
    for u in units:
        v = logs[u.log].refresh()[u.key]
        out[u.log, u.key] = Completion(u.problem.id, u.sample, v["text"], v["ids"], v["finish"])
        if grader:
            grader.submit(u.problem, v["text"])
    if grader:
        grader.wait()
    return out


def engine_generate(
    engine: Engine,
    model: Callable[[], Any],
    tokenizer: Any,
    stop: Sequence[str],
    states: Mapping[Hashable, InitialState] | None = None,
) -> Callable[[list[Unit]], Iterator[tuple[int, Any]]]:
    """`generate` for `complete`: one engine run over all missing units (the model is loaded only if there are any)."""

    def generate(todo: list[Unit]) -> Iterator[tuple[int, Any]]:
        return engine.run(model(), tokenizer, [u.request for u in todo], states, stop)

    return generate
