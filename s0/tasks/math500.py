"""MATH-500: competition mathematics with a boxed final answer, compared by math-verify.

    python run.py task=math500 task.path=tests/data/math500

Published protocol: rows 0-249 for training, the other 250 held out (`cut` has the rule for smaller local data). Columns:
problem, solution, answer, subject, level, unique_id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from s0.config.schema import TaskConfig
from s0.data import Problem, Verdict
from s0.errors import DataError
from s0.tasks.base import GradingItem
from s0.tasks.benchmark import Benchmark
from s0.tasks.math_pool import MathPool
from s0.tasks.source import Row, Source, cut
from s0.tasks.text import last_boxed, strip_thinking

if TYPE_CHECKING:
    from s0.sandbox import Sandbox

COLUMNS: dict[str, type] = {
    "problem": str, "solution": str, "answer": str, "subject": str, "level": int, "unique_id": str,
}  # fmt: skip
INSTRUCTION = "Solve this math problem. Show your work step by step. Put your final answer in \\boxed{}.\n\n"


class Math500(Benchmark):
    r"""Problem.reference is the gold answer, Problem.meta has `level` (int, 1-5) and `subject`.

    The gold answer is the last \boxed{} of the solution, as in the published evaluation; the `answer` column where there is
    none.
    """

    name = "math500"
    grading = "math-verify on the last boxed answer"
    breakdowns = ("level", "subject")

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self._pool = MathPool(self.timeout_s)

    def load(self) -> tuple[list[Problem], list[Problem]]:
        source = Source(self.name, COLUMNS, self.path, self.hub_id, self.hub_revision)
        parts = cut(source, source.tables(), heldout="test", first=250, n_heldout=250)
        self.source = parts.label
        return [self._problem(source, r) for r in parts.train], [self._problem(source, r) for r in parts.heldout]

    def _problem(self, source: Source, row: Row) -> Problem:
        gold = last_boxed(row["solution"]) or row["answer"].strip()
        if not gold:
            raise DataError(
                f"{self.name}: {source.label}, row {row['unique_id']!r} has no boxed solution and no answer; correct it"
            )
        return Problem(row["unique_id"], row["problem"], gold, {"level": row["level"], "subject": row["subject"]})

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        return [{"role": "user", "content": INSTRUCTION + problem.prompt}]

    def clean(self, problem: Problem, text: str) -> str:
        """Content of the last boxed answer; empty where there is none (that is no answer, whatever else was written)."""
        return last_boxed(strip_thinking(text)) or ""

    def grade_many(self, items: Sequence[GradingItem], sandbox: Sandbox | None) -> list[Verdict]:
        answers = [self.clean(item.problem, item.text) for item in items]
        given = [i for i, answer in enumerate(answers) if answer]
        compared = self._pool.compare([(items[i].problem.reference, answers[i]) for i in given])
        verdicts = [Verdict("wrong", "no boxed answer") for _ in items]
        for i, result in zip(given, compared, strict=True):
            detail = result.detail or f"answer {answers[i][:80]}"
            if result.kind == "wrong":
                detail += f", expected {items[i].problem.reference[:80]}"
            verdicts[i] = Verdict(result.kind, detail, result.seconds)
        return verdicts
