"""Spider end to end: real databases, real sandbox; hostile queries grade wrong and leave every byte as it was."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from s0.errors import ConfigError, DataError, SandboxError
from s0.sandbox import Sandbox
from s0.tasks import make_task
from s0.tasks.base import GradingItem

DATA = Path(__file__).parents[1] / "data" / "spider"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def tasks():
    return {match: make_task("spider", {"path": str(DATA), "match": match}) for match in ("official", "set")}


def find(task, query_start):
    problems = task.problems("train") + task.problems("heldout")
    return next(p for p in problems if p.reference.startswith(query_start))


def tree_hash(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*.*"))}


# (start of the gold query, completion, official verdict, set verdict)
CASES = [
    ("SELECT count(*) FROM book", "SELECT count(*) FROM book", "pass", "pass"),
    ("SELECT count(*) FROM book", "SELECT count(book_id) FROM book;", "pass", "pass"),
    ("SELECT count(*) FROM book", "```sql\nSELECT COUNT(*)\nFROM book\n```", "pass", "pass"),
    ("SELECT count(*) FROM book", "<think>easy</think>\n\nSELECT count(*) FROM book", "pass", "pass"),
    ("SELECT count(*) FROM book", "Here is the query:\nSELECT count(*) FROM book", "pass", "pass"),
    # Right on the main file only (6 books), wrong on the second: the reason for more than one file.
    ("SELECT count(*) FROM book", "SELECT 6", "wrong", "pass"),
    ("SELECT count(*) FROM book", "SELECT 5", "wrong", "wrong"),
    ("SELECT count(*) FROM book", "SELECT count(*) FROM books", "error", "error"),
    ("SELECT count(*) FROM book", "SELECT count(*) FROM book This counts the books.", "error", "error"),
    ("SELECT count(*) FROM book", "I cannot answer that.", "error", "error"),
    ("SELECT count(*) FROM book", "", "wrong", "wrong"),
    # order matters only where the gold query orders
    ("SELECT title FROM book ORDER BY year", "SELECT title FROM book ORDER BY year DESC", "pass", "pass"),
    ("SELECT title FROM book ORDER BY year", "SELECT title FROM book ORDER BY year", "wrong", "pass"),
    ("SELECT origin, destination FROM flight", "SELECT origin, destination FROM flight ORDER BY price DESC", "pass", "pass"),
    # columns in any order
    ("SELECT title, price FROM book", "SELECT price, title FROM book WHERE price > 10", "pass", "wrong"),
    ("SELECT title, price FROM book", "SELECT title FROM book WHERE price > 10", "wrong", "wrong"),
    # duplicates count, DISTINCT does not
    ("SELECT name FROM author WHERE country", "SELECT DISTINCT name FROM author WHERE country = 'Norway'", "pass", "pass"),
    ("SELECT DISTINCT country FROM author", "SELECT country FROM author", "pass", "pass"),
    ("SELECT DISTINCT country FROM author", "SELECT country FROM author GROUP BY country", "wrong", "pass"),
    ("SELECT DISTINCT origin FROM flight", "SELECT origin FROM flight UNION SELECT origin FROM flight", "wrong", "pass"),
    # other ways to say the same
    ("SELECT avg(pages)", "SELECT sum(pages) * 1.0 / count(*) FROM book", "pass", "pass"),
    ("SELECT T1.name, count(*) FROM author", "SELECT name, (SELECT count(*) FROM book b WHERE b.author_id = a.author_id) "
     "FROM author a WHERE author_id IN (SELECT author_id FROM book)", "pass", "pass"),
    ("SELECT name FROM author WHERE birth_year IS NULL", "SELECT name FROM author WHERE birth_year = NULL", "wrong", "wrong"),
    ("SELECT title FROM book WHERE book_id NOT IN", "SELECT title FROM book EXCEPT SELECT title FROM book b JOIN loan l "
     "ON b.book_id = l.book_id", "wrong", "wrong"),
    ("SELECT min(price), max(price)", "SELECT max(price), avg(price), min(price) FROM flight", "pass", "wrong"),
    ("SELECT active, paid FROM member", "SELECT paid, active FROM member", "pass", "pass"),
    ("SELECT active, paid FROM member", "SELECT active, active FROM member", "wrong", "wrong"),
    ("SELECT name FROM club WHERE id NOT IN", "SELECT c.name FROM club c LEFT JOIN member m ON c.id = m.club_id "
     "WHERE m.club_id IS NULL", "pass", "pass"),
    ("SELECT name FROM student ORDER BY grade", "SELECT name FROM student ORDER BY grade DESC, name DESC", "wrong", "pass"),
    ("SELECT max(price) FROM product", "WITH p AS (SELECT price FROM product) SELECT max(price) FROM p", "pass", "pass"),
    ("SELECT count(*) FROM product WHERE vegan", "SELECT sum(vegan) FROM product", "pass", "pass"),
    ("SELECT name FROM product WHERE vegan = 1 OR", "SELECT name FROM product WHERE vegan = 1 OR price < = 2", "pass", "error"),
]  # fmt: skip


@pytest.mark.parametrize("match", ["official", "set"])
def test_grading_table(tasks, sandbox, match):
    task = tasks[match]
    items = [GradingItem(find(task, start), text) for start, text, _, _ in CASES]
    verdicts = task.grade_many(items, sandbox)
    expected = [case[2] if match == "official" else case[3] for case in CASES]
    assert [(case[1], v.kind) for case, v in zip(CASES, verdicts, strict=True)] == [
        (case[1], kind) for case, kind in zip(CASES, expected, strict=True)
    ]
    assert all(v.detail.startswith(f"{match} match") for v in verdicts)
    assert all(v.tier for v in verdicts)


def test_every_gold_query_passes_both_matches(tasks, sandbox):
    for task in tasks.values():
        problems = task.problems("train") + task.problems("heldout")
        verdicts = task.grade_many([GradingItem(p, p.reference.split("\n--")[0]) for p in problems], sandbox)
        assert [(p.id, v) for p, v in zip(problems, verdicts, strict=True) if not v.passed] == []


def test_keep_distinct_counts_duplicates(sandbox):
    task = make_task("spider", {"path": str(DATA), "keep_distinct": True})
    problem = find(task, "SELECT DISTINCT country FROM author")
    texts = ["SELECT country FROM author", "SELECT DISTINCT country FROM author"]
    verdicts = task.grade_many([GradingItem(problem, text) for text in texts], sandbox)
    assert [v.kind for v in verdicts] == ["wrong", "pass"]
    assert "DISTINCT kept" in task.grading


HOSTILE = [
    "DROP TABLE book",
    "DELETE FROM book",
    "UPDATE book SET price = 0",
    "INSERT INTO book (title) VALUES ('x')",
    "ATTACH DATABASE '{folder}/evil.sqlite' AS evil",
    "VACUUM INTO '{folder}/copy.sqlite'",
    "PRAGMA writable_schema = 1",
    "PRAGMA journal_mode = WAL",
    "CREATE TABLE evil (x)",
    "SELECT count(*) FROM book; DROP TABLE book",
    "SELECT writefile('{folder}/evil', 'x')",
    "SELECT load_extension('/lib/evil.so')",
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
    "SELECT printf('%.*c', 900000000, 'x')",
    "SELECT a.*, b.*, c.* FROM book a, book b, book c, book d, book e, book f, book g, book h, book i",
]


@pytest.mark.parametrize("query", HOSTILE)
def test_attack_hostile_queries_grade_wrong_and_change_nothing(sandbox, tmp_path, query):
    folder = tmp_path / "spider"
    shutil.copytree(DATA, folder)
    before = tree_hash(folder)
    task = make_task("spider", {"path": str(folder), "grading_timeout_s": 2.0})
    problem = find(task, "SELECT count(*) FROM book")
    items = [GradingItem(problem, query.format(folder=folder)), GradingItem(problem, "SELECT count(*) FROM book")]
    hostile, honest = task.grade_many(items, sandbox)
    assert hostile.kind in ("wrong", "error", "timeout", "memory")
    assert honest.kind == "pass"
    assert tree_hash(folder) == before


@pytest.mark.parametrize("match", ["official", "set"])
def test_attack_no_query_does_not_equal_an_empty_result(sandbox, match):
    """SQLite runs an empty statement and returns no rows; that must not answer a question whose answer is empty."""
    task = make_task("spider", {"path": str(DATA), "match": match})
    problem = find(task, "SELECT count(*) FROM book")
    problem = replace(problem, reference="SELECT title FROM book WHERE pages > 100000")
    texts = ["", "-- nothing", "```sql\n```", "SELECT name FROM author WHERE 0"]
    verdicts = task.grade_many([GradingItem(problem, text) for text in texts], sandbox)
    assert [v.kind for v in verdicts[:2]] == ["wrong", "wrong"]
    assert [v.passed for v in verdicts] == [False, False, False, True]


def test_no_sandbox_is_an_error_not_a_score(tasks):
    problem = tasks["official"].problems("train")[0]
    with pytest.raises(SandboxError, match="never without"):
        tasks["official"].grade(problem, "SELECT 1", None)


def test_prompt_shows_schema_and_question(tasks):
    problem = find(tasks["official"], "SELECT max(price) FROM product")
    (message,) = tasks["official"].messages(problem)
    assert message["role"] == "user"
    assert "CREATE TABLE product (id INTEGER PRIMARY KEY" in message["content"]
    assert "CREATE TABLE sale" in message["content"]
    assert "What is the highest price?" in message["content"]
    assert message["content"].endswith("Output only the SQL query, no explanation.")
    assert problem.reference.split("\n")[0] not in message["content"]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("SELECT 1;", "SELECT 1"),
        ("select a\nfrom t ; ", "select a\nfrom t"),
        ("```sql\nSELECT 1;\n```", "SELECT 1"),
        ("```\nSELECT 1\n```\nThis selects one.", "SELECT 1"),
        ("Use this:\n```sql\nSELECT 1", "SELECT 1"),
        ("```\nresult: 1\n```\n```sql\nSELECT 2\n```", "SELECT 2"),
        ("I will select the name.\nSELECT name FROM t", "SELECT name FROM t"),
        ("SQL: SELECT name FROM t", "SELECT name FROM t"),
        ("with x as (select 1) select * from x", "with x as (select 1) select * from x"),
        ("<think>SELECT 2</think>SELECT 1", "SELECT 1"),
        ("(SELECT 1) UNION (SELECT 2)", "SELECT 1) UNION (SELECT 2)"),
        ("DROP TABLE t", "DROP TABLE t"),
    ],
)
def test_clean_finds_the_query(tasks, text, query):
    task = tasks["official"]
    assert task.clean(task.problems("train")[0], text) == query


def test_changed_database_is_another_data_set(tmp_path):
    folder = tmp_path / "spider"
    shutil.copytree(DATA, folder)
    first = make_task("spider", {"path": str(folder)})
    assert first.dataset_hash() == make_task("spider", {"path": str(DATA)}).dataset_hash()
    with closing(sqlite3.connect(folder / "database" / "library" / "library_variant1.sqlite")) as connection:
        connection.execute("DELETE FROM book")
        connection.commit()
    second = make_task("spider", {"path": str(folder)})
    assert first.problems("train")[0].reference != second.problems("train")[0].reference
    assert first.dataset_hash() != second.dataset_hash()


def test_gold_query_that_fails_blames_the_databases(tmp_path, sandbox):
    folder = tmp_path / "spider"
    shutil.copytree(DATA, folder)
    with closing(sqlite3.connect(folder / "database" / "library" / "library.sqlite")) as connection:
        connection.execute("ALTER TABLE book RENAME TO volume")
        connection.commit()
    task = make_task("spider", {"path": str(folder)})
    with pytest.raises(DataError, match=r"gold query of spider/train/0 fails on library.sqlite .*database_dir"):
        task.grade(task.problems("train")[0], "SELECT 1", sandbox)


def error(config) -> str:
    with pytest.raises(DataError) as caught:
        make_task("spider", config).problems("train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_database_directory_is_one_line(tmp_path):
    assert "is not a folder" in error({"path": str(DATA), "database_dir": str(tmp_path / "nowhere")})
    assert "database 'library' is not at" in error({"path": str(DATA), "database_dir": str(tmp_path)})
    shutil.copy(DATA / "train.jsonl", tmp_path)
    shutil.copy(DATA / "validation.jsonl", tmp_path)
    assert "is not a folder" in error({"path": str(tmp_path)})
    broken = tmp_path / "database" / "library"
    broken.mkdir(parents=True)
    (broken / "library.sqlite").write_bytes(b"")
    assert "no tables" in error({"path": str(tmp_path)})
    (broken / "library.sqlite").write_bytes(b"not a database at all" * 100)
    assert "not a readable SQLite database" in error({"path": str(tmp_path)})


def test_hub_without_databases_says_where_to_get_them():
    task = make_task("spider", {"hub_id": "xlangai/spider"})
    with pytest.raises(DataError, match=r"task.database_dir is not set.*yale-lily.github.io/spider"):
        task.database_dir()


def test_attack_db_id_cannot_leave_the_folder(tmp_path):
    task = make_task("spider", {"path": str(DATA)})
    for db_id in ("../spider", "..", "/etc", "library/../bakery", ""):
        with pytest.raises(DataError, match="database"):
            task.databases(db_id)


def test_bad_match_is_a_config_error():
    with pytest.raises(ConfigError, match="choices: official, set"):
        make_task("spider", {"match": "exact"})
    with pytest.raises(ConfigError, match="keep_distinct"):
        make_task("spider", {"match": "set", "keep_distinct": True})


def test_fixture_is_what_its_script_builds(tmp_path):
    spec = importlib.util.spec_from_file_location("spider_fixture", DATA / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.build(tmp_path)
    for split in ("train", "validation"):
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (DATA / f"{split}.jsonl").read_bytes()
    files = sorted(f.relative_to(DATA) for f in DATA.rglob("*.sqlite"))
    assert files == sorted(f.relative_to(tmp_path) for f in tmp_path.rglob("*.sqlite"))
    for file in files:
        with closing(sqlite3.connect(DATA / file)) as shipped, closing(sqlite3.connect(tmp_path / file)) as built:
            assert list(shipped.iterdump()) == list(built.iterdump())
