"""Queries: exact rows for honest ones, and for hostile ones a harmless refusal that changes no byte of any file."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path

import pytest

from s0.errors import SandboxError
from s0.sandbox import Sandbox, SqlQuery, SqlResult

COUNT = "SELECT count(*) FROM singer"


def _make(path: Path, *statements: str) -> str:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return str(path)


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _make(
        tmp_path_factory.mktemp("db") / "singers.sqlite",
        "CREATE TABLE singer(id INTEGER PRIMARY KEY, name TEXT, age INT, pay REAL, photo BLOB)",
        "INSERT INTO singer VALUES (1,'Ann',30,1.5,x'00ff'),(2,'Bob',NULL,2.0,NULL),(3,'Ann',41,-1e300,x'')",
        "CREATE TABLE big(n INT, s TEXT)",
        "INSERT INTO big WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c LIMIT 3000) SELECT n, 'row ' || n FROM c",
        "CREATE TABLE log(t TEXT)",
        "CREATE TRIGGER tr AFTER INSERT ON singer BEGIN INSERT INTO log VALUES (new.name); END",
        "CREATE VIEW v AS SELECT name, load_extension('/tmp/evil') AS x FROM singer",
        "CREATE VIRTUAL TABLE notes USING fts5(body)",
        "INSERT INTO notes VALUES ('a secret note')",
    )


def snapshot(db: str) -> dict[str, str]:
    """Name and digest of every file beside the database."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(db).parent.iterdir()}


HOSTILE = {
    "attach_file": "ATTACH DATABASE '{dir}/new.db' AS x",
    "attach_memory": "ATTACH DATABASE ':memory:' AS x",
    "attach_uri": "ATTACH 'file:{dir}/new.db?mode=rwc' AS x",
    "detach": "DETACH main",
    "vacuum": "VACUUM",
    "vacuum_into": "VACUUM INTO '{dir}/copy.db'",
    "vacuum_into_expression": "VACUUM main INTO '{dir}' || '/copy.db'",
    "pragma_journal_mode": "PRAGMA journal_mode = WAL",
    "pragma_user_version": "PRAGMA user_version = 7",
    "pragma_writable_schema": "PRAGMA writable_schema = ON",
    "pragma_query_only_off": "PRAGMA query_only = OFF",
    "pragma_trusted_schema": "PRAGMA trusted_schema = ON",
    "pragma_temp_store_directory": "PRAGMA temp_store_directory = '{dir}'",
    "pragma_heap_limit": "PRAGMA hard_heap_limit = 1",
    "pragma_read": "PRAGMA database_list",
    "pragma_function": "SELECT * FROM pragma_database_list",
    "pragma_wal_checkpoint": "PRAGMA wal_checkpoint(TRUNCATE)",
    "insert": "INSERT INTO singer(name) VALUES ('x')",
    "insert_through_trigger": "INSERT INTO singer VALUES (9,'x',1,1,NULL)",
    "insert_select": "INSERT INTO log SELECT name FROM singer",
    "insert_returning": "INSERT INTO log VALUES ('x') RETURNING t",
    "update": "UPDATE singer SET name = 'x'",
    "update_returning": "UPDATE singer SET age = 1 RETURNING *",
    "delete": "DELETE FROM singer",
    "delete_in_cte": "WITH t AS (SELECT 1) DELETE FROM singer",
    "replace": "REPLACE INTO singer(id) VALUES (1)",
    "upsert": "INSERT INTO singer(id) VALUES (1) ON CONFLICT DO UPDATE SET name = 'x'",
    "drop_table": "DROP TABLE singer",
    "drop_trigger": "DROP TRIGGER tr",
    "alter_table": "ALTER TABLE singer RENAME TO x",
    "create_table": "CREATE TABLE x(a)",
    "create_table_as": "CREATE TABLE x AS SELECT * FROM singer",
    "create_temp_table": "CREATE TEMP TABLE x(a)",
    "create_temp_trigger": "CREATE TEMP TRIGGER t INSERT ON singer BEGIN DELETE FROM singer; END",
    "create_index": "CREATE INDEX i ON singer(name)",
    "create_view": "CREATE VIEW x AS SELECT 1",
    "create_virtual_table": "CREATE VIRTUAL TABLE x USING fts5(a)",
    "create_csv_table": "CREATE VIRTUAL TABLE x USING csv(filename='/etc/passwd')",
    "fts_command": "INSERT INTO notes(notes) VALUES ('rebuild')",
    "fts_shadow_table": "UPDATE notes_data SET block = x'00'",
    "reindex": "REINDEX",
    "analyze": "ANALYZE",
    "begin_exclusive": "BEGIN EXCLUSIVE",
    "savepoint": "SAVEPOINT s",
    "write_schema_table": "UPDATE sqlite_master SET sql = ''",
    "two_statements": "SELECT 1; DROP TABLE singer",
    "comment_then_statement": "SELECT 1 /* */; -- \nDELETE FROM singer",
    "load_extension": "SELECT load_extension('/tmp/evil.so')",
    "load_extension_in_view": "SELECT * FROM v",
    "writefile": "SELECT writefile('{dir}/out', 'x')",
    "readfile": "SELECT readfile('/etc/passwd')",
    "edit": "SELECT edit('x', 'touch {dir}/out')",
    "fts3_tokenizer": "SELECT fts3_tokenizer('simple', x'4141414141414141')",
    "fsdir": "SELECT * FROM fsdir('/')",
    "dbpage": "SELECT * FROM sqlite_dbpage",
    "dot_command": ".shell touch {dir}/out",
    "dot_output": ".output {dir}/out",
    "null_byte": "SELECT 1\0; DROP TABLE singer",
    "lone_surrogate": "SELECT '\ud800'",
    "empty": "",
    "not_sql": "drop everything!",
    "deep_expression": "SELECT " + "(" * 20000 + "1" + ")" * 20000,
    "deep_function": "SELECT " + "abs(" * 3000 + "1" + ")" * 3000,
    "many_compounds": "SELECT 1" + " UNION ALL SELECT 1" * 5000,
    "huge_statement": "SELECT '" + "x" * (2 << 20) + "'",
    "unbound_parameter": "SELECT ?1",
}

GREEDY = {
    "recursive_cte": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c) SELECT count(*) FROM c",
    "cte_of_growing_strings": (
        "WITH RECURSIVE c(s) AS (SELECT 'x' UNION ALL SELECT s||s FROM c) SELECT max(length(s)) FROM c"
    ),
    "cross_join_bomb": "SELECT count(*) FROM big a, big b, big c, big d WHERE a.n + b.n + c.n + d.n = -1",
    "sort_bomb": "SELECT a.s||b.s||c.s AS k FROM big a, big b, big c ORDER BY k DESC",
    "row_flood": "SELECT a.n, b.n FROM big a, big b",
    "endless_rows": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c) SELECT n FROM c",
    "huge_printf": "SELECT printf('%.*c', 900000000, 'x')",
    "huge_printf_length": "SELECT length(printf('%.*c', 900000000, 'x'))",
    "huge_zeroblob": "SELECT zeroblob(1000000000)",
    "huge_randomblob": "SELECT hex(randomblob(900000000))",
    "huge_replace": "SELECT replace(printf('%.*c', 60000, 'x'), 'x', printf('%.*c', 60000, 'y'))",
    "huge_group_concat": "SELECT group_concat(a.s || b.s) FROM big a, big b",
    "wide_rows": "SELECT " + ",".join(["hex(zeroblob(500000))"] * 100),
    "uninterruptible_like": "SELECT printf('%.*c', 900000, 'a') LIKE '%' || printf('%.*c', 9000, 'a') || 'b'",
    "uninterruptible_glob": "SELECT printf('%.*c', 900000, 'a') GLOB '*' || printf('%.*c', 9000, 'a') || 'b'",
    "uninterruptible_instr": (
        "SELECT sum(instr(printf('%.*c', 900000, 'a'), printf('%.*c', 400000, 'a') || 'b')) FROM big"
    ),
}  # fmt: skip


def attack(sandbox: Sandbox, db: str, sql: str, timeout_s: float | None = None) -> SqlResult:
    before = snapshot(db)
    assert sandbox.query(SqlQuery(db, COUNT)).rows == [(3,)]
    started = sandbox.started
    result = sandbox.query(SqlQuery(db, sql, timeout_s))
    assert sandbox.query(SqlQuery(db, COUNT)).rows == [(3,)]
    assert sandbox.started == started
    assert snapshot(db) == before
    return result


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_query(sandbox: Sandbox, db: str, name: str) -> None:
    result = attack(sandbox, db, HOSTILE[name].replace("{dir}", os.path.dirname(db)))
    assert result.kind == "error" or (result.kind == "ok" and result.rows in ([], [(None,)])), result
    assert result.rows == [] or name == "unbound_parameter"
    assert result.tier == sandbox.tier


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_query(sandbox: Sandbox, db: str, name: str) -> None:
    result = attack(sandbox, db, GREEDY[name], timeout_s=0.3)
    assert result.kind in ("timeout", "memory", "error"), result
    assert result.rows == []


@pytest.mark.parametrize("name", ["attach_file", "vacuum_into", "update", "load_extension", "create_temp_table"])
def test_hostile_query_unconfined(reduced: Sandbox, db: str, name: str) -> None:
    """SQLite's own locks hold where the kernel's do not."""
    assert attack(reduced, db, HOSTILE[name].replace("{dir}", os.path.dirname(db))).kind == "error"


HONEST: list[tuple[str, list[tuple]]] = [
    ("SELECT * FROM singer LIMIT 2", [(1, "Ann", 30, 1.5, b"\x00\xff"), (2, "Bob", None, 2.0, None)]),
    ("SELECT pay, photo FROM singer WHERE id = 3", [(-1e300, b"")]),
    ("SELECT name FROM singer WHERE age > 100", []),
    ("SELECT count(DISTINCT name), avg(age), 7/2, 7/2.0 FROM singer", [(2, 35.5, 3, 3.5)]),
    ("SELECT name, count(*) FROM singer GROUP BY name HAVING count(*) > 1", [("Ann", 2)]),
    ("SELECT a.id FROM singer a JOIN singer b ON a.name = b.name AND a.id <> b.id ORDER BY 1 DESC", [(3,), (1,)]),
    ("SELECT id FROM singer EXCEPT SELECT 2 INTERSECT SELECT 3", [(3,)]),
    ("WITH t AS (SELECT max(age) m FROM singer) SELECT name FROM singer, t WHERE age = m", [("Ann",)]),
    ("WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c LIMIT 4) SELECT sum(n) FROM c", [(10,)]),
    ("SELECT row_number() OVER (ORDER BY id DESC) FROM singer LIMIT 1", [(1,)]),
    ('SELECT name FROM singer WHERE name = "Bob"', [("Bob",)]),  # double-quoted text, as Spider's gold queries have it
    ("SELECT 9223372036854775807, -9223372036854775808, 9e999, -9e999", [(2**63 - 1, -(2**63), float("inf"), -float("inf"))]),
    ("SELECT 1 AS a, 1 AS a;", [(1, 1)]),
    ("VALUES (1, 'x'), (NULL, 'é')", [(1, "x"), (None, "é")]),
    ("SELECT s FROM big ORDER BY s DESC LIMIT 2", [("row 999",), ("row 998",)]),
    ("SELECT strftime('%Y', '2020-05-01'), upper('a'), round(2.567, 1), coalesce(NULL, 3)", [("2020", "A", 2.6, 3)]),
    ("SELECT CAST(x'ff41' AS TEXT)", [("A",)]),  # not UTF-8: the bad byte is dropped
    ("SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'singer'", [("singer",)]),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "rows"), HONEST)
def test_honest_query(sandbox: Sandbox, db: str, sql: str, rows: list[tuple]) -> None:
    result = sandbox.query(SqlQuery(db, sql))
    assert result.kind == "ok", result
    assert result.rows == rows
    assert [[type(v) for v in row] for row in result.rows] == [[type(v) for v in row] for row in rows]
    assert result.columns == (len(rows[0]) if rows else 1)


def test_agrees_with_plain_sqlite_on_a_large_result(auto: Sandbox, db: str) -> None:
    sql = "SELECT a.n, b.s, a.n * 1.0 / b.n FROM big a, big b WHERE b.n <= 20"
    expected = sqlite3.connect(f"file:{db}?mode=ro", uri=True).execute(sql).fetchall()
    assert len(expected) == 60_000
    assert auto.query(SqlQuery(db, sql, timeout_s=20)).rows == expected


def test_caps_on_rows_and_bytes(auto: Sandbox, db: str) -> None:
    assert auto.query(SqlQuery(db, "SELECT n FROM big", max_rows=3000)).kind == "ok"
    assert auto.query(SqlQuery(db, "SELECT n FROM big", max_rows=2999)).detail == "more than 2999 rows"
    assert auto.query(SqlQuery(db, "SELECT s FROM big", max_bytes=10_000)).kind == "memory"


def test_map_query_keeps_the_order(db: str) -> None:
    with Sandbox(workers=2) as sandbox:
        results = sandbox.map_query([SqlQuery(db, f"SELECT {i}") for i in range(50)])
    assert [r.rows for r in results] == [[(i,)] for i in range(50)]


def test_write_ahead_log_database(auto: Sandbox, tmp_path: Path) -> None:
    db = _make(tmp_path / "wal.sqlite", "PRAGMA journal_mode=WAL", "CREATE TABLE t(a)", "INSERT INTO t VALUES (1)")
    before = snapshot(db)
    assert auto.query(SqlQuery(db, "SELECT a FROM t")).rows == [(1,)]
    assert snapshot(db) == before


def test_unmerged_changes_raise(auto: Sandbox, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "open.sqlite")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t(a)")
    with pytest.raises(SandboxError, match="unmerged"):
        auto.query(SqlQuery(str(tmp_path / "open.sqlite"), "SELECT 1"))
    connection.close()


@pytest.mark.parametrize("content", [None, b"this is not a database, by no means" * 40, "folder"])
def test_missing_or_damaged_database_raises(auto: Sandbox, tmp_path: Path, content: bytes | str | None) -> None:
    """Neither may count as a wrong query."""
    path = tmp_path / "x.sqlite"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(SandboxError, match=r"x\.sqlite|not a database"):
        auto.query(SqlQuery(str(path), "SELECT 1"))


def test_empty_database(auto: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "empty.sqlite"
    path.touch()
    assert auto.query(SqlQuery(str(path), "SELECT 1")).rows == [(1,)]
    assert auto.query(SqlQuery(str(path), "SELECT * FROM t")).kind == "error"


def test_relative_path_and_read_only_file(auto: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.sqlite"
    _make(path, "CREATE TABLE t(a)")
    path.chmod(0o444)
    monkeypatch.chdir(tmp_path)
    assert auto.query(SqlQuery("r.sqlite", "SELECT count(*) FROM t")).rows == [(0,)]


def test_checks_and_queries_share_a_worker(auto: Sandbox, db: str) -> None:
    from sandbox_help import GOOD

    started = auto.started
    for _ in range(3):
        assert auto.check(GOOD).passed
        assert auto.query(SqlQuery(db, COUNT)).rows == [(3,)]
    assert auto.started == max(1, started)
