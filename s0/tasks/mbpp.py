"""MBPP and MBPP+: Python functions asked for in a sentence and three assertions, graded by running the assertions.

    python run.py task=mbpp task.path=mbpp.jsonl
    python run.py task=mbpp_plus task.path=mbppplus.parquet

MBPP (Austin et al. 2021), published split by task id: 601-974 for training, 11-510 held out; the sanitized release keeps the
ids. MBPP+ (Liu et al. 2023) adds tests to 378 of the problems and has one table: the first half is for training. The user
turn is the paper's prompt without its three examples and without [BEGIN]: a chat model answers with a code block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from s0.config.schema import TaskConfig
from s0.data import Problem, Verdict
from s0.errors import DataError
from s0.tasks.base import GradingItem
from s0.tasks.benchmark import Benchmark
from s0.tasks.code import grade_programs, program_answer
from s0.tasks.program_tests import ProgramTest, program_test
from s0.tasks.source import Row, Source

if TYPE_CHECKING:
    from s0.sandbox import Sandbox

COLUMNS: dict[str, type] = {"task_id": str, "code": str, "test_list": list}
PROMPT = (
    "You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n{tests}\n"
)
TRAIN_IDS, HELDOUT_IDS = range(601, 975), range(11, 511)


class MBPP(Benchmark):
    """Problem.prompt is the user turn, Problem.reference a `ProgramTest`; Problem.meta has `entry_point`."""

    name = "mbpp"
    hub_config: str | None = "full"

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.grading = "benchmark assertions"
        self._references: dict[str, str] = {}

    def load(self) -> tuple[list[Problem], list[Problem]]:
        source = Source(self.name, COLUMNS, self.path, self.hub_id, self.hub_revision, self.hub_config)
        tables = source.tables()
        train, heldout, rule = self._cut(source, tables)
        self.source = f"{source.label}; {rule}"
        return [self._problem(source, row) for row in train], [self._problem(source, row) for row in heldout]

    def _cut(self, source: Source, tables: Mapping[str, list[Row]]) -> tuple[list[Row], list[Row], str]:
        if "train" in tables and "test" in tables:
            return tables["train"], tables["test"], "train, test"
        if len(tables) > 1 and "test" not in tables:
            raise source.fail(
                f"{source.label} has the splits {', '.join(tables)}", "expected one table, or train and test"
            )
        rows = tables["test"] if "test" in tables else next(iter(tables.values()))
        train, heldout = (
            [row for row in rows if row["task_id"].isdecimal() and int(row["task_id"]) in ids]
            for ids in (TRAIN_IDS, HELDOUT_IDS)
        )
        if self.name == "mbpp" and train and heldout:
            return train, heldout, "task ids 601-974 train, 11-510 held out"
        at = len(rows) // 2
        return rows[:at], rows[at:], f"rows 0-{at - 1} train, {at}-{len(rows) - 1} held out"

    def tests(self, row: Row) -> dict[str, Any]:
        """What `program_test` needs of a row."""
        setup = [*(row.get("test_imports") or []), row.get("test_setup_code") or ""]
        return {"test": row["test_list"], "setup": [line for line in setup if line], "solution": row["code"]}

    def _problem(self, source: Source, row: Row) -> Problem:
        where = f"{self.name}: {source.label}, task {row['task_id']}"
        text = row.get("text") or row.get("prompt")
        if not isinstance(text, str):
            raise DataError(f"{where} has no column 'text' or 'prompt'; MBPP has one of them")
        test = program_test(where, "", self.tests(row))
        prompt = PROMPT.format(text=text, tests="\n".join(map(str, row["test_list"])))
        self._references[f"mbpp/{row['task_id']}"] = str(row["code"])
        return Problem(f"mbpp/{row['task_id']}", prompt, test.to_reference(), {"entry_point": test.entry_point})

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        return [{"role": "user", "content": problem.prompt}]

    def clean(self, problem: Problem, text: str) -> str:
        return program_answer(ProgramTest.from_reference(problem.reference), text)

    def references(self) -> dict[str, str]:
        self.problems("train")
        return {i: code for i, code in self._references.items() if code.strip()}

    def grade_references(self, items: Sequence[GradingItem], sandbox: Sandbox | None) -> list[Verdict]:
        tests = [ProgramTest.from_reference(item.problem.reference) for item in items]
        return grade_programs(self._need_sandbox(sandbox), tests, [item.text for item in items], self.timeout_s)

    def grade_many(self, items: Sequence[GradingItem], sandbox: Sandbox | None) -> list[Verdict]:
        tests = [ProgramTest.from_reference(item.problem.reference) for item in items]
        programs = [program_answer(test, item.text) for test, item in zip(tests, items, strict=True)]
        return grade_programs(self._need_sandbox(sandbox), tests, programs, self.timeout_s)


class MBPPPlus(MBPP):
    """The same questions with evalplus's tests, which import numpy."""

    name = "mbpp_plus"
    hub_config = None

    def tests(self, row: Row) -> dict[str, Any]:
        if not isinstance(row.get("test"), str):
            raise DataError(
                f"{self.name}: task {row['task_id']} has no column 'test'; take the release evalplus/mbppplus, whose rows "
                "hold their test code"
            )
        return {"test": row["test"], "solution": row["code"]}
