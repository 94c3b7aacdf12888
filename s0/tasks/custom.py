"""Questions of one's own: any file with a prompt per row, and a grader named in the config.

    python run.py task=custom task.path=my.jsonl task.grader=numeric task.columns='{prompt: question, answer: solution}'

A prompt is text or a list of chat messages. The parts come from a column, from files named train and test, or from a seeded
fraction of one file. See docs/tasks.md, "Your own data".
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from s0.config.schema import CustomTask, SpiderTask
from s0.data import Problem, Verdict, canonical_json
from s0.errors import ConfigError, DataError
from s0.tasks import graders
from s0.tasks.base import GradingItem
from s0.tasks.benchmark import Benchmark
from s0.tasks.code import grade_programs, program_answer
from s0.tasks.math_pool import MathPool
from s0.tasks.program_tests import ProgramTest, program_test
from s0.tasks.source import Row, Source
from s0.tasks.spider import Spider
from s0.tasks.text import strip_thinking

if TYPE_CHECKING:
    from s0.sandbox import Sandbox

#: what a column can be for -> names it has in published data, the first that a file has is taken
ROLES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "messages", "question", "complete_prompt", "instruct_prompt", "instruction", "input", "problem", "text"),
    "answer": ("answer", "solution", "completion", "output", "response", "target", "label", "query"),
    "test": ("test", "tests", "test_list"),
    "id": ("id", "task_id", "unique_id", "name"),
    "entry_point": ("entry_point",),
    "solution": ("canonical_solution", "code", "solution"),
    "setup": ("test_setup_code", "test_imports", "test_setup"),
    "split": ("split",),
    "database": ("db_id", "database"),
}  # fmt: skip
_PARTS = {
    "train": ("train", "training"),
    "heldout": ("test", "heldout", "held_out", "held-out", "validation", "valid", "val", "dev", "eval"),
}


class Custom(Benchmark):
    """Problem.reference is what the grader compares with (for `python` the test); Problem.meta has `messages` where the
    prompt is a chat, and `db_id` for `sql`."""

    name = "custom"
    config: CustomTask

    def __init__(self, config: CustomTask) -> None:
        super().__init__(config)
        self.grader = config.grader
        self.extract = config.extract or {"json": "fence", "sql": "fence"}.get(config.grader, "all")
        self._check_settings()
        self.grading = f"{self.grader}, answer: {self.extract}" if self.grader not in ("python", "sql") else self.grader
        self._columns: dict[str, str] = {}

    def _check_settings(self) -> None:
        config = self.config
        for role in config.columns or {}:
            if role not in ROLES:
                raise ConfigError(
                    f"task.columns.{role}: a column is for one of {', '.join(ROLES)}; correct the left side"
                )
        if self.extract.startswith("regex:"):
            fault = graders.checked_pattern(self.extract.removeprefix("regex:"))
            if fault:
                raise ConfigError(
                    f"task.extract={self.extract!r}: no regular expression ({fault}); correct the pattern"
                )
        elif self.extract not in graders.EXTRACT:
            raise ConfigError(f"task.extract={self.extract!r}: choose {', '.join(graders.EXTRACT)} or regex:PATTERN")

    # -- data ------------------------------------------------------------------------------------------------------------

    def load(self) -> tuple[list[Problem], list[Problem]]:
        source = Source(self.name, {}, self.path, self.hub_id, self.hub_revision)
        tables = source.tables()
        self._columns = self._roles(source, [row for rows in tables.values() for row in rows])
        train, heldout, rule = self._cut(source, tables)
        self.source = f"{source.label}; {rule}; columns " + ", ".join(f"{r}: {c}" for r, c in self._columns.items())
        return train, heldout

    def _roles(self, source: Source, rows: Sequence[Row]) -> dict[str, str]:
        """role -> column: as `task.columns` says, else the first known name that a row has."""
        given = {role: str(column) for role, column in (self.config.columns or {}).items()}
        present = dict.fromkeys(column for row in rows for column in row)
        for role, column in given.items():
            if column not in present:
                raise source.fail(f"{source.label} has no column {column!r} ({role})", f"it has {', '.join(present)}")
        found = dict(given)
        for role, names in ROLES.items():
            if role not in found:
                name = next((n for n in names if n in present and n not in given.values()), None)
                if name is not None:
                    found[role] = name
        need = {"python": ("prompt",), "none": ("prompt",), "sql": ("prompt", "answer", "database")}
        for role in need.get(self.grader, ("prompt", "answer")):
            if role not in found and not (role == "answer" and found.get("prompt") == "messages"):
                raise source.fail(
                    f"{source.label} has no column for {role} (it has {', '.join(present)})",
                    f"say which: task.columns={{{role}: COLUMN}}",
                )
        return found

    def _cut(self, source: Source, tables: Mapping[str, list[Row]]) -> tuple[list[Problem], list[Problem], str]:
        column = self._columns.get("split")
        if column is not None:
            parts: dict[str, list[Problem]] = {"train": [], "heldout": []}
            for table, rows in tables.items():
                for number, row in enumerate(rows):
                    value = str(row.get(column) or "").lower()
                    part = next((part for part, names in _PARTS.items() if value in names), None)
                    if part is None:
                        raise source.fail(
                            f"{source.label}, row {number}: column {column!r} holds {row.get(column)!r}",
                            "it must say train or test; task.columns.split names another column",
                        )
                    parts[part].append(self._problem(source, table, number, row))
            return parts["train"], parts["heldout"], f"split by column {column}"
        heldout = next((name for name in ("test", "validation") if name in tables), None)
        if "train" in tables and heldout:
            train, rest = (
                [self._problem(source, name, n, row) for n, row in enumerate(tables[name])]
                for name in ("train", heldout)
            )
            return train, rest, f"train and {heldout}"
        if len(tables) > 1:
            raise source.fail(
                f"{source.label} has the splits {', '.join(tables)}", "expected train and test, or one table"
            )
        ((name, rows),) = tables.items()
        problems = [self._problem(source, name, n, row) for n, row in enumerate(rows)]
        order = list(range(len(problems)))
        random.Random(f"split:{self.config.split_seed}").shuffle(order)
        n_train = min(max(1, round(self.config.train_fraction * len(order))), len(order) - 1)
        chosen = set(order[:n_train])
        train, rest = ([p for i, p in enumerate(problems) if (i in chosen) is part] for part in (True, False))
        rule = f"{n_train} of {len(order)} rows train (fraction {self.config.train_fraction:g}, seed {self.config.split_seed})"
        return train, rest, rule

    def _problem(self, source: Source, table: str, number: int, row: Row) -> Problem:
        where = f"{self.name}: {source.label}, split {table}, row {number}"
        key = row.get(self._columns["id"]) if "id" in self._columns else None
        prompt, meta = self._prompt(where, row)
        reference = self._reference(where, prompt, meta, row)
        return Problem(str(key) if key not in (None, "") else f"{table}/{number}", prompt, reference, meta)

    def _prompt(self, where: str, row: Row) -> tuple[str, dict[str, Any]]:
        value = row.get(self._columns["prompt"])
        if isinstance(value, str) and value.strip():
            return value, {}
        chat = isinstance(value, list) and value and all(isinstance(m, dict) for m in value)
        if not chat or not all(isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value):  # type: ignore[union-attr]
            raise DataError(
                f"{where}: the prompt is neither text nor a list of messages with role and content; correct the row"
            )
        assert isinstance(value, list)
        messages = [{"role": m["role"], "content": m["content"]} for m in value]
        meta: dict[str, Any] = {}
        if messages[-1]["role"] == "assistant":
            meta["answer"] = messages.pop()["content"]
        if not messages or messages[-1]["role"] != "user":
            raise DataError(
                f"{where}: the messages do not end with the user's, or one answer after it; correct the row"
            )
        return "\n\n".join(f"{m['role']}: {m['content']}" for m in messages), {**meta, "messages": messages}

    def _reference(self, where: str, prompt: str, meta: dict[str, Any], row: Row) -> str:
        def cell(role: str) -> Any:
            return row.get(self._columns[role]) if role in self._columns else None

        if self.grader == "python":
            inputs = {key: row.get(key) for key in ("base_input", "plus_input", "atol")}
            roles = {role: cell(role) for role in ("test", "entry_point", "solution", "setup")}
            return program_test(where, "" if "messages" in meta else prompt, {**inputs, **roles}).to_reference()
        answer = cell("answer")
        if answer is None:
            answer = meta.pop("answer", None)
        if self.grader == "none":
            return ""
        if self.grader == "sql":
            meta["db_id"] = str(cell("database"))
            return _as_text(answer)
        accepted = (
            [_as_text(a) for a in answer] if isinstance(answer, list) and self.grader != "json" else [_as_text(answer)]
        )
        if answer is None or not accepted or not all(a.strip() for a in accepted):
            raise DataError(f"{where}: no answer; every row needs one for grader {self.grader}")
        self._check_answers(where, accepted)
        return canonical_json([self.grader, self.extract, self.config.tolerance, accepted])

    def _check_answers(self, where: str, accepted: Sequence[str]) -> None:
        for answer in accepted:
            if self.grader == "numeric" and graders.parse_number(answer) is None:
                raise DataError(
                    f"{where}: the answer {answer[:40]!r} is not one number; correct it, or task.grader=exact"
                )
            if self.grader == "regex" and (fault := graders.checked_pattern(answer)):
                raise DataError(
                    f"{where}: the answer {answer[:40]!r} is no regular expression ({fault}); correct the row"
                )
            if self.grader == "json":
                try:
                    graders.read_json(answer)
                except (ValueError, RecursionError) as error:
                    raise DataError(
                        f"{where}: the answer {answer[:40]!r} is not JSON ({error}); correct the row"
                    ) from None

    # -- asking and grading ------------------------------------------------------------------------------------------------

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.config.system}] if self.config.system else []
        if "messages" in problem.meta:
            return [*system, *problem.meta["messages"]]
        return [*system, {"role": "user", "content": self.config.instruction + problem.prompt}]

    def clean(self, problem: Problem, text: str) -> str:
        """The answer by `task.extract`; empty where it finds none. Programs are taken as HumanEval takes them."""
        if self.grader == "python":
            return program_answer(ProgramTest.from_reference(problem.reference), text)
        return self._answers([text])[0] or ""

    def _answers(self, texts: Sequence[str]) -> list[str | None]:
        plain = [strip_thinking(text) for text in texts]
        answers = graders.extracted(self.extract, plain)
        if not self.config.extract and self.extract == "fence":  # the default: models also answer without a fence
            return [text if answer is None else answer for text, answer in zip(plain, answers, strict=True)]
        return answers

    def grade_many(self, items: Sequence[GradingItem], sandbox: Sandbox | None) -> list[Verdict]:
        if self.grader == "none":
            return [Verdict("pass", "not judged (grader none)") for _ in items]
        if self.grader == "python":
            tests = [ProgramTest.from_reference(item.problem.reference) for item in items]
            programs = [program_answer(test, item.text) for test, item in zip(tests, items, strict=True)]
            return grade_programs(self._need_sandbox(sandbox), tests, programs, self.timeout_s)
        if self.grader == "sql":
            return self._sql.grade_many(items, sandbox)
        answers = self._answers([item.text for item in items])
        found = [i for i, answer in enumerate(answers) if answer is not None and answer.strip()]
        verdicts = [Verdict("wrong", f"no answer by task.extract={self.extract}") for _ in items]
        pairs = [(json.loads(items[i].problem.reference)[3], answers[i] or "") for i in found]
        for i, verdict in zip(found, self._compare(pairs), strict=True):
            verdicts[i] = verdict
        return verdicts

    @property
    def _compare(self) -> graders.Compare:
        if self.grader == "math":
            return functools.partial(graders.math, pool=self._math)
        if self.grader == "numeric":
            return functools.partial(graders.numeric, tolerance=self.config.tolerance)
        plain: dict[str, Callable[..., list[Verdict]]] = {
            "exact": graders.exact, "contains": graders.contains, "regex": graders.regex, "json": graders.json_value,
        }  # fmt: skip
        return plain[self.grader]

    @functools.cached_property
    def _math(self) -> MathPool:
        return MathPool(self.timeout_s)

    @functools.cached_property
    def _sql(self) -> Spider:
        """Spider's execution match over the user's databases."""
        return Spider(
            SpiderTask(
                name="spider", path=self.path, database_dir=self.config.database_dir, grading_timeout_s=self.timeout_s
            )
        )


def _as_text(answer: Any) -> str:
    return answer if isinstance(answer, str) else canonical_json(answer)
