"""What can be asked of the sandbox and what it answers to a query; programs are answered with `s0.data.Verdict`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from s0.errors import SandboxError

ResultKind = Literal["ok", "error", "timeout", "memory", "protocol", "infra"]


class DataFault(SandboxError):
    """The data set's own code or files are at fault, whatever the answer: trying again is no use."""


@dataclass(frozen=True)
class PythonCheck:
    """A program and its test in HumanEval's form.

    `prompt + completion` is the candidate's program; `test` defines `check(candidate)` and may use the prompt's helpers
    and the name `entry_point`. `timeout_s` is seconds the program computes or waits (not those
    in which other work keeps it from running), None for the sandbox's default.
    """

    prompt: str
    completion: str
    test: str
    entry_point: str
    timeout_s: float | None = None


@dataclass(frozen=True)
class SqlQuery:
    """One query against one SQLite file. More than `max_rows` rows or `max_bytes` bytes of result is kind "memory"."""

    db_path: str
    sql: str
    timeout_s: float | None = None
    max_rows: int = 100_000
    max_bytes: int = 16 << 20


@dataclass(frozen=True)
class SqlResult:
    """`rows` holds tuples of exactly int, float, str, bytes or None, in the order SQLite gave them; empty unless "ok"."""

    kind: ResultKind
    columns: int
    rows: list[tuple]
    detail: str
    seconds: float
    tier: str
