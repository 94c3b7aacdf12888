"""Runs one untrusted query inside the confined child: the database is a private in-memory copy, and only reading is
allowed at all.

The child gets the database as an open read-only descriptor and copies it, so it has no path to the file; SQLite's
authorizer admits SELECT, READ, FUNCTION and RECURSIVE alone. See https://www.sqlite.org/security.html.
"""

from __future__ import annotations

import mmap
import os
import sqlite3
import time
from typing import Any

from s0.sandbox import wire
from s0.sandbox.codec import Codec

_ALLOWED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_FORBIDDEN_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "fts5", "zeroblob_to_file"}
_PROGRESS_STEPS = 20_000
#: what a scalar counts against max_bytes; text and blobs count their length on top
_CELL_BYTES = 8


class _TooLarge(Exception):
    pass


def _authorize(action: int, first: str | None, second: str | None, _db: str | None, _trigger: str | None) -> int:
    if action not in _ALLOWED:
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _open(fd: int) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=0)
    # What the official Spider evaluation does with text that is not UTF-8.
    connection.text_factory = lambda raw: raw.decode(errors="ignore")
    size = os.fstat(fd).st_size
    if size:
        with mmap.mmap(fd, size, prot=mmap.PROT_READ) as content:
            if content[18:20] == b"\x02\x02":
                # A write-ahead-log database cannot be opened in memory; nothing is lost, its log is empty.
                plain = bytearray(content)
                plain[18:20] = b"\x01\x01"
                connection.deserialize(plain)
            else:
                connection.deserialize(content)
    return connection


def _harden(connection: sqlite3.Connection, deadline: float, max_bytes: int) -> None:
    for pragma in ("temp_store=MEMORY", "trusted_schema=OFF", "query_only=ON", "cell_size_check=ON"):
        connection.execute(f"PRAGMA {pragma}")
    limits = {
        sqlite3.SQLITE_LIMIT_LENGTH: max(max_bytes, 1 << 20),
        sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1 << 20,
        sqlite3.SQLITE_LIMIT_COLUMN: 2000,
        sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 500,
        sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 200,
        sqlite3.SQLITE_LIMIT_VDBE_OP: 1_000_000,
        sqlite3.SQLITE_LIMIT_ATTACHED: 0,
        sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 10_000,
        sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
        sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
    }
    for limit, value in limits.items():
        connection.setlimit(limit, value)
    connection.enable_load_extension(False) if hasattr(connection, "enable_load_extension") else None
    connection.set_progress_handler(lambda: time.process_time() > deadline, _PROGRESS_STEPS)
    connection.set_authorizer(_authorize)


def _fetch(cursor: sqlite3.Cursor, max_rows: int, max_bytes: int) -> list[list[Any]]:
    rows: list[list[Any]] = []
    codec = Codec()
    size = 0
    for row in cursor:
        size += _CELL_BYTES * (len(row) + 1) + sum(len(v) for v in row if type(v) in (str, bytes))
        if len(rows) >= max_rows:
            raise _TooLarge(f"more than {max_rows} rows")
        if size > max_bytes:
            raise _TooLarge(f"more than {max_bytes} bytes")
        rows.append([codec.pack(v) for v in row])
    return rows


def run(fd: int, job: dict[str, Any]) -> bytes:
    """One JSON object: kind, detail, columns (int) and rows (list of lists of packed values)."""
    answer: dict[str, Any] = {"kind": "ok", "detail": "", "columns": 0, "rows": []}
    stage = "data"
    try:
        connection = _open(fd)
        _harden(connection, time.process_time() + job["timeout_s"], job["max_bytes"])
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # a damaged file is not the query's fault
        stage = "error"
        cursor = connection.execute(job["sql"])
        answer["columns"] = len(cursor.description or ())
        answer["rows"] = _fetch(cursor, job["max_rows"], job["max_bytes"])
    except _TooLarge as exc:
        answer.update(kind="memory", detail=str(exc))
    except MemoryError:
        answer.update(kind="memory", detail="out of memory")
    except (sqlite3.Error, sqlite3.Warning, ValueError, AttributeError, OverflowError) as exc:
        name = getattr(exc, "sqlite_errorname", "")
        kind = {"SQLITE_INTERRUPT": "timeout", "SQLITE_NOMEM": "memory"}.get(name, stage)
        answer.update(kind=kind, detail=f"{type(exc).__name__}: {exc}"[:300])
    if answer["kind"] != "ok":
        answer.update(columns=0, rows=[])
    return wire.dumps(answer)
