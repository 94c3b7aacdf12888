"""Spider: text to SQL, graded by executing the query on the question's database inside the sandbox.

    python run.py task=spider task.path=tests/data/spider

Published protocol: the first 500 rows of train for training, all 1,034 rows of dev held out. `match: official` (headline)
is the test suite's execution match: gold and predicted results must agree on every .sqlite file of the question's database;
`match: set` is the published evaluation's set equality on the one main file. Columns: db_id, question, query.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s0.config.schema import SpiderTask
from s0.data import Problem, Verdict
from s0.errors import ConfigError, DataError, SandboxError
from s0.tasks.base import GradingItem
from s0.tasks.benchmark import Benchmark
from s0.tasks.source import Row, Source, cut
from s0.tasks.sqlmatch import has_order_by, prepare, same_official, same_set
from s0.tasks.text import strip_fences, strip_thinking

if TYPE_CHECKING:
    from s0.sandbox import Sandbox, SqlResult

COLUMNS: dict[str, type] = {"db_id": str, "question": str, "query": str}
_QUERY_START = (r"(?im)^[ \t]*(?:SELECT|WITH)\b", r"\b(?:SELECT|WITH)\b", r"(?i)\b(?:SELECT|WITH)\b")


class Spider(Benchmark):
    """Problem.prompt is the user turn (schema and question); Problem.reference the gold query, followed by a comment with
    the content hash of its database files, so that other databases are other problems; Problem.meta has `db_id`."""

    name = "spider"
    breakdowns = ("db_id",)

    config: SpiderTask

    def __init__(self, config: SpiderTask) -> None:
        super().__init__(config)
        self.keep_distinct = config.keep_distinct
        if self.match == "set" and self.keep_distinct:
            raise ConfigError(
                "task.keep_distinct=true: only match=official strips DISTINCT; remove it or set match=official"
            )
        self.grading = {
            ("official", False): "official execution match (test suite, DISTINCT stripped)",
            ("official", True): "official execution match (test suite, DISTINCT kept)",
            ("set", False): "set match (published S0 evaluation)",
        }[self.match, self.keep_distinct]
        self._schemas: dict[str, tuple[str, str]] = {}

    def load(self) -> tuple[list[Problem], list[Problem]]:
        source = Source(self.name, COLUMNS, self.path, self.hub_id, self.hub_revision, "spider")
        parts = cut(source, source.tables(), heldout="validation", first=500, n_heldout=1034)
        self.source = parts.label
        # Only databases that are used have to be there, so the limits are applied before the schemas are read.
        train, heldout = self._first(parts.train, "n_train"), self._first(parts.heldout, "n_eval")
        return (
            [self._problem(parts.train_split, n, row) for n, row in enumerate(train)],
            [self._problem(parts.heldout_split, n, r) for n, r in enumerate(heldout, parts.offset)],
        )

    def _problem(self, split: str, number: int, row: Row) -> Problem:
        db_id = row["db_id"]
        if db_id not in self._schemas:
            files = self.databases(db_id)
            self._schemas[db_id] = (read_schema(self.name, files[0]), content_hash(files))
        schema, files_hash = self._schemas[db_id]
        prompt = (
            f"Given the following SQLite database schema for database '{db_id}':\n\n{schema}\n\n"
            f"Write a SQL query to answer: {row['question']}\n\nOutput only the SQL query, no explanation."
        )
        reference = f"{row['query'].strip().rstrip(';').rstrip()}\n-- databases sha256 {files_hash}"
        return Problem(f"spider/{split}/{number}", prompt, reference, {"db_id": db_id})

    def databases(self, db_id: str) -> list[Path]:
        """Database files of `db_id`: the main one first, then (match=official) all others, sorted. Raises DataError."""
        root = self.database_dir()
        main = root / db_id / f"{db_id}.sqlite"
        # A db_id comes from a data file and becomes part of a path.
        if not re.fullmatch(r"\w[\w.-]*", db_id) or not main.is_file():
            raise DataError(
                f"spider: database {db_id!r} is not at {main}; task.database_dir must hold <db_id>/<db_id>.sqlite, "
                "the folder `database` of the Spider download (or of its test suite)"
            )
        if self.match == "set":
            return [main]
        return [main, *sorted(f for f in main.parent.iterdir() if ".sqlite" in f.name and f != main and f.is_file())]

    def database_dir(self) -> Path:
        """The configured folder, else `database/` beside the local data. Raises DataError."""
        given: str | Path | None = self.config.database_dir
        if given is None and self.path is not None:
            folder = Path(self.path)
            given = (folder if folder.is_dir() else folder.parent) / "database"
        if given is None:
            raise DataError(
                "spider: task.database_dir is not set, and the hub has no databases; download the data set from "
                "https://yale-lily.github.io/spider, unpack it and give task.database_dir=FOLDER/database"
            )
        if not Path(given).is_dir():
            raise DataError(
                f"spider: task.database_dir={given} is not a folder; it must hold <db_id>/<db_id>.sqlite, "
                "the folder `database` of the Spider download"
            )
        return Path(given)

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        return [{"role": "user", "content": problem.prompt}]

    def clean(self, problem: Problem, text: str) -> str:
        """The query: the first code block, else from the first line that opens with SELECT or WITH (failing that, from
        the first such word) to the end. What follows the query stays, and fails as the syntax error it is."""
        text = strip_fences(strip_thinking(text), prefer=_QUERY_START[2]).strip()
        for pattern in _QUERY_START:
            match = re.search(pattern, text)
            if match:
                text = text[match.start() :]
                break
        return text.strip().rstrip(";").rstrip()

    def grade_many(self, items: Sequence[GradingItem], sandbox: Sandbox | None) -> list[Verdict]:
        self._need_sandbox(sandbox)
        verdicts: list[Verdict | None] = [None] * len(items)
        files = [self.databases(item.problem.meta["db_id"]) for item in items]
        golds = [self._prepare(item.problem.reference) for item in items]
        queries = [self._prepare(self.clean(item.problem, item.text)) for item in items]
        seconds = [0.0] * len(items)
        # One round per database file: an answer that fails on one is not run on the next.
        for turn in range(max(map(len, files), default=0)):
            open_items = [i for i in range(len(items)) if verdicts[i] is None and turn < len(files[i])]
            jobs = {job: None for i in open_items for job in ((files[i][turn], golds[i]), (files[i][turn], queries[i]))}
            results = self._run(list(jobs), sandbox)
            for i in open_items:
                file = files[i][turn]
                seconds[i] += results[file, queries[i]].seconds
                verdicts[i] = self._compare(
                    items[i].problem, file, results[file, golds[i]], results[file, queries[i]], seconds[i]
                )
                if verdicts[i] is None and turn + 1 == len(files[i]):
                    tier = results[file, queries[i]].tier
                    verdicts[i] = Verdict(
                        "pass", f"{self.match} match on {len(files[i])} database(s)", seconds[i], tier
                    )
        return [v for v in verdicts if v is not None]

    def _prepare(self, sql: str) -> str:
        return prepare(sql, self.keep_distinct) if self.match == "official" else sql

    def _run(self, jobs: list[tuple[Path, str]], sandbox: Any) -> dict[tuple[Path, str], SqlResult]:
        # start-up: processes and their self-test, for those who only read the data
        from s0.sandbox import SqlQuery

        queries = [SqlQuery(str(file), sql, timeout_s=self.timeout_s) for file, sql in jobs]
        return dict(zip(jobs, sandbox.map_query(queries), strict=True))

    def _compare(
        self, problem: Problem, file: Path, gold: SqlResult, predicted: SqlResult, seconds: float
    ) -> Verdict | None:
        """The verdict against the answer on one file; None when the results agree. Raises DataError for a bad gold query."""
        for result in (gold, predicted):
            if result.kind == "infra":
                raise SandboxError(f"spider: {problem.id} on {file.name}: {result.detail}; it is not scored: run again")
        if gold.kind != "ok":
            raise DataError(
                f"spider: the gold query of {problem.id} fails on {file.name} ({gold.kind}: {gold.detail}); "
                "check that task.database_dir belongs to this data, or raise task.grading_timeout_s"
            )
        label, where = f"{self.match} match", f"on {file.name}"
        if predicted.kind != "ok":
            return Verdict(predicted.kind, f"{label}: {predicted.detail} {where}", seconds, predicted.tier)
        if predicted.columns == 0:
            return Verdict("wrong", f"{label}: the answer holds no query", seconds, predicted.tier)
        try:
            if self.match == "set":
                same = same_set(gold.rows, predicted.rows)
            else:
                same = same_official(gold.rows, predicted.rows, has_order_by(problem.reference))
        except TimeoutError as error:
            return Verdict("timeout", f"{label}: {error} {where}", seconds, predicted.tier)
        if same:
            return None
        shape = f"{len(predicted.rows)} x {predicted.columns}, expected {len(gold.rows)} x {gold.columns}"
        return Verdict("wrong", f"{label}: results differ {where} (rows x columns {shape})", seconds, predicted.tier)


def read_schema(name: str, database: Path) -> str:
    """The CREATE TABLE statements of a database file, in file order, opened read-only. Raises DataError."""
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            rows = connection.execute(
                "SELECT sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL"
            ).fetchall()
    except sqlite3.Error as error:
        raise DataError(f"{name}: {database} is not a readable SQLite database ({error}); download it again") from error
    if not rows:
        raise DataError(f"{name}: {database} has no tables; the file is empty or damaged: download it again")
    return "\n\n".join(sql for (sql,) in rows)


def content_hash(files: Sequence[Path]) -> str:
    """First 16 hex digits of a SHA-256 over names and contents."""
    total = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            total.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:16]
