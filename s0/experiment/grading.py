"""Verdicts while generation goes on: each distinct (problem, answer) is graded once, on all sandbox workers, and stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from s0.config.schema import Config
from s0.data import Problem, Verdict
from s0.errors import S0Error, SandboxError
from s0.runtime.progress import bar
from s0.storage import keys
from s0.storage.store import Store
from s0.tasks.base import GradingItem, Task

#: distinct answers graded per hand-over to the sandbox
BATCH = 32
#: verdicts that say something about the machine, the data or this version of the grader, not about the answer
UNSTORED = ("infra", "data", "unjudged")


class Grader:
    """`submit` as completions arrive, `wait` when verdicts are needed, then `verdict`. Errors of the sandbox surface in
    `wait` (or the next `submit`), never as a score."""

    def __init__(self, task: Task, config: Config, sandbox: Callable[[], Any], store: Store):
        self.judging = keys.judging(task, config.task, config.sandbox)
        self.task, self.log = task, store.log("verdicts", keys.verdicts(self.judging))
        self._sandbox = sandbox
        self._known = self.log.refresh()
        self._problem_keys: dict[str, str] = {}
        self._queued: dict[str, GradingItem] = {}
        self._running: set[str] = set()
        self._unstored: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="grading")
        self._futures: list[Future[None]] = []
        self.seconds = 0.0
        #: distinct answers submitted, and those that had to be judged
        self.submitted: set[str] = set()
        self.judged: set[str] = set()

    def key(self, problem: Problem, text: str) -> str:
        if problem.id not in self._problem_keys:
            self._problem_keys[problem.id] = keys.problem(problem)
        return keys.verdict(self._problem_keys[problem.id], text)

    def submit(self, problem: Problem, text: str) -> None:
        key = self.key(problem, text)
        self.submitted.add(key)
        if key in self._known or key in self._unstored or key in self._running:
            return
        self.judged.add(key)
        self._queued.setdefault(key, GradingItem(problem, text))
        if len(self._queued) >= BATCH:
            self._hand_over()

    def _hand_over(self) -> None:
        for f in [f for f in self._futures if f.done()]:
            f.result()
            self._futures.remove(f)
        if self._queued:
            batch, self._queued = self._queued, {}
            self._running |= set(batch)
            self._futures.append(self._pool.submit(self._grade, batch))

    def _grade(self, batch: dict[str, GradingItem]) -> None:
        import time

        start = time.monotonic()
        keys, items = list(batch), list(batch.values())
        try:
            verdicts: list[Verdict | Exception] = list(self.task.grade_many(items, self._sandbox()))
        except Exception:
            # one item's failure costs no other its verdict
            verdicts = [self._grade_one(item) for item in items]
        with self._lock:
            sound = [(k, v) for k, v in zip(keys, verdicts, strict=True) if isinstance(v, Verdict)]
            self.log.append({k: v.to_json() for k, v in sound if v.kind not in UNSTORED})
            self._unstored.update({k: v.to_json() for k, v in sound if v.kind == "unjudged"})
        self.seconds += time.monotonic() - start
        failed = []
        for item, v in zip(items, verdicts, strict=True):
            if isinstance(v, Exception):
                failed.append((item.problem.id, str(v)))
            elif v.kind in ("infra", "data"):
                failed.append((item.problem.id, v.detail))
        if failed:
            ids = list(dict.fromkeys(i for i, _ in failed))
            named = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
            raise SandboxError(
                f"grading failed for {len(failed)} answer(s) to {named}: {failed[0][1]}; none of them is scored, the others "
                "are kept: mend the cause and run again"
            )

    def _grade_one(self, item: GradingItem) -> Verdict | Exception:
        """The verdict, "unjudged" where this answer makes the grader itself stumble, or the error to raise."""
        try:
            return self.task.grade_many([item], self._sandbox())[0]
        except S0Error as exc:
            return exc
        except Exception as exc:
            return Verdict("unjudged", f"cannot be judged: grading met {type(exc).__name__}: {exc}"[:300])

    def references(self, problems: Sequence[Problem]) -> dict[str, Verdict]:
        """Problem id -> verdict of those whose own reference solution does not pass; judged once, then stored. Raises
        SandboxError where the machinery fails."""
        answers = self.task.references()
        items = {
            self.key(p, f"reference:{answers[p.id]}"): GradingItem(p, answers[p.id])
            for p in problems
            if p.id in answers
        }
        verdicts = {k: Verdict.from_json(self._known[k]) for k in items if k in self._known}
        missing = [k for k in items if k not in verdicts]
        if missing:
            with bar("references", len(missing), "reference solutions of the data", 1.0) as progress:
                for start in range(0, len(missing), BATCH):
                    part = missing[start : start + BATCH]
                    made = self.task.grade_references([items[k] for k in part], self._sandbox())
                    verdicts.update(zip(part, made, strict=True))
                    self.log.append({k: verdicts[k].to_json() for k in part if verdicts[k].kind not in UNSTORED})
                    for _ in part:
                        progress.advance()
            self._known = self.log.refresh()
        for k, v in verdicts.items():
            if v.kind == "infra":
                raise SandboxError(f"the reference solution of {items[k].problem.id} cannot be judged: {v.detail}")
        return {items[k].problem.id: v for k, v in verdicts.items() if not v.passed}

    def wait(self) -> None:
        """Until everything submitted is graded and stored. Raises SandboxError."""
        self._hand_over()
        failures: list[BaseException | None] = []
        if self._futures:
            with bar("verify", len(self._futures), f"batches of up to {BATCH} answers", 1.0) as progress:
                for f in self._futures:
                    failures.append(f.exception())
                    progress.advance()
        self._futures.clear()
        self._running.clear()
        self._known = self.log.refresh()
        for failure in failures:
            if failure is not None:
                raise failure

    def verdict(self, problem: Problem, text: str) -> Verdict:
        key = self.key(problem, text)
        return Verdict.from_json(self._known.get(key) or self._unstored[key])

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
