"""Data of one's own: roles of columns, the parts, every grader, and what is refused."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from s0.errors import ConfigError, DataError
from s0.sandbox import Sandbox
from s0.storage.records import find_records, read_record
from s0.tasks import make_task
from s0.tasks.base import GradingItem
from s0.tasks.growth import LINEAR, Flood, measure

ROOT = Path(__file__).parents[2]
ROWS = [{"prompt": f"question {i}", "answer": f"answer {i}"} for i in range(10)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def task_of(tmp_path, rows=ROWS, **values):
    return make_task("custom", {"path": write(tmp_path / "mine.jsonl", rows), **values})


def both(task):
    return task.problems("train") + task.problems("heldout")


def verdicts(task, texts, sandbox=None):
    """One verdict per text, on the first problem."""
    problem = sorted(both(task), key=lambda p: p.id)[0]
    return [v.kind for v in task.grade_many([GradingItem(problem, text) for text in texts], sandbox)]


def one(tmp_path, row, grader, **values):
    """A task whose first problem is `row`."""
    other = {**row, "id": "z"} if "prompt" not in row else {**row, "id": "z", "prompt": "another"}
    return task_of(tmp_path, [{"id": "a", **row}, other], grader=grader, **values)


# ---- reading ----


def test_every_format_gives_the_same_problems(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.jsonl").read_bytes().replace(b"\n", b"\r\n"))
    with open(tmp_path / "a.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "answer"])
        writer.writeheader()
        writer.writerows(ROWS)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    paths = [p for p in tmp_path.iterdir() if p.name != "mine.jsonl"]
    assert len(paths) == 7
    assert len({make_task("custom", {"path": str(p)}).dataset_hash() for p in paths}) == 1


def test_columns_are_mapped_and_named_in_the_record(tmp_path):
    rows = [{"question": f"q{i}", "gold": i, "noise": 1} for i in range(4)]
    task = task_of(tmp_path, rows, grader="numeric", columns={"answer": "gold"})
    assert {p.prompt for p in both(task)} == {"q0", "q1", "q2", "q3"}
    assert "prompt: question" in task.source
    assert "answer: gold" in task.source


def test_chat_messages_and_a_system_prompt(tmp_path):
    chat = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "yes"},
    ]
    rows = [{"messages": [*chat[:1], {"role": "user", "content": f"u{i}"}, chat[2]]} for i in range(4)]
    task = task_of(tmp_path, rows)
    problem = task.problems("train")[0]
    assert [m["role"] for m in task.messages(problem)] == ["system", "user"]
    assert task.grade(problem, "yes", None).passed
    assert not task.grade(problem, "no", None).passed
    task = task_of(tmp_path, ROWS, system="Be brief.", instruction="Q: ")
    problem = task.problems("train")[0]
    assert task.messages(problem) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Q: " + problem.prompt},
    ]


def test_parts_by_fraction_are_seeded(tmp_path):
    def parts(**values):
        task = task_of(tmp_path, **values)
        return [p.id for p in task.problems("train")], [p.id for p in task.problems("heldout")]

    assert parts() == parts()
    assert [len(part) for part in parts(train_fraction=0.8)] == [8, 2]
    assert parts() != parts(split_seed=1)
    assert sorted([*parts()[0], *parts()[1]]) == [f"all/{i}" for i in range(10)]
    assert [len(part) for part in parts(train_fraction=0.01)] == [1, 9]


def test_parts_by_column_and_by_files(tmp_path):
    rows = [{**row, "split": "train" if i < 3 else "test"} for i, row in enumerate(ROWS)]
    task = task_of(tmp_path, rows)
    assert [len(task.problems("train")), len(task.problems("heldout"))] == [3, 7]
    rows = [{**row, "fold": "dev" if i < 3 else "train"} for i, row in enumerate(ROWS)]
    task = task_of(tmp_path, rows, columns={"split": "fold"})
    assert [len(task.problems("train")), len(task.problems("heldout"))] == [7, 3]
    folder = tmp_path / "folder"
    DatasetDict({"train": Dataset.from_list(ROWS[:4]), "test": Dataset.from_list(ROWS[4:])}).save_to_disk(folder)
    task = make_task("custom", {"path": str(folder)})
    assert [len(task.problems("train")), len(task.problems("heldout"))] == [4, 6]


# ---- graders ----

LONG = "I think.\nThe answer is 42"
CASES = [
    ("exact", {}, "a  b", ["a b", " a\nb ", "<think>x</think>a b"], ["a", "a b c", "A b", ""]),
    ("exact", {"extract": "last_line"}, "42", ["so\n42\n", "42"], ["42\nso", "so 42"]),
    ("exact", {"extract": "boxed"}, "42", [r"thus \boxed{42}"], ["42", r"\boxed{41}"]),
    ("exact", {"extract": "fence"}, "x = 1", ["see\n```\nx = 1\n```"], ["x = 1"]),
    ("exact", {"extract": r"regex:answer is (\w+)"}, "42", [LONG, "answer is 41, no, answer is 42"], ["42"]),
    ("exact", {}, ["yes", "yep"], ["yes", "yep"], ["no"]),
    ("numeric", {}, "1,000", ["#### 1000", "It is 1000.", "#### 1,000.00"], ["#### 1001", "none", "#### 1 000"]),
    ("numeric", {}, 42, ["42"], ["43"]),
    ("numeric", {"tolerance": 0.01}, "100", ["100.9", "99.1"], ["101.1"]),
    ("math", {}, r"\frac{1}{2}", [r"so \boxed{0.5}", "1/2"], [r"\boxed{2}", "6=5"]),
    ("regex", {}, r"^\d{4}-\d\d$", ["2024-05", "on\n2024-05\n"], ["24-05"]),
    ("contains", {}, "Paris", ["It is Paris."], ["paris", "London"]),
    (
        "json",
        {},
        {"a": [1, True]},
        ['{"a": [1.0, true]}', '```json\n{"a": [1, true]}\n```'],
        ['{"a": [1, 1]}', "{", "NaN"],
    ),
    ("none", {}, "x", ["anything", ""], []),
]


@pytest.mark.parametrize(("grader", "values", "answer", "right", "wrong"), CASES)
def test_graders_tell_right_from_wrong(tmp_path, grader, values, answer, right, wrong):
    task = one(tmp_path, {"prompt": "q", "answer": answer}, grader, **values)
    assert verdicts(task, right) == ["pass"] * len(right)
    assert verdicts(task, wrong) == ["wrong"] * len(wrong)


def test_attack_a_pattern_that_backtracks_costs_its_own_process(tmp_path, monkeypatch):
    from s0.tasks import graders
    from s0.tasks.limited import LimitedPool

    pool = LimitedPool(graders.PATTERNS, 0.3, workers=1)
    monkeypatch.setattr(graders, "_patterns", lambda: pool)
    bomb = "a" * 60 + "!"
    assert verdicts(one(tmp_path, {"prompt": "q", "answer": "(a+)+$"}, "regex"), [bomb, "aaa"]) == ["timeout", "pass"]
    task = one(tmp_path, {"prompt": "q", "answer": "x"}, "exact", extract="regex:(a+)+$")
    assert verdicts(task, [bomb]) == ["wrong"]
    pool.close()


@pytest.mark.parametrize("grader", ["exact", "contains", "numeric", "json"])
def test_attack_floods_cost_linear_time(tmp_path, grader):
    task = one(tmp_path, {"prompt": "q", "answer": "1"}, grader)
    problem = task.problems("train")[0]
    for flood in (
        Flood("", " ", "x"),
        Flood("", "[", ""),
        Flood("", "9", ""),
        Flood("", '{"a":', "1"),
        Flood("", "```\n", ""),
    ):
        growth = measure(lambda text: task.grade_many([GradingItem(problem, text)], None), flood)
        assert (growth.exponent or 0) <= LINEAR, flood


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1) as sandbox:
        yield sandbox


HEAD = 'def add(a, b):\n    """Sum."""\n'
RIGHT = [
    "    return a + b",
    "return a + b",
    "```python\ndef add(a, b):\n    return a + b\n```",
    "def add(a, b):\n    return a + b",
]
WRONG = ["    return a - b", "", "prose"]
_CHECK = "def check(candidate):\n    assert candidate(1, 2) == 3\n"
_UNITTEST = "class TestCases(unittest.TestCase):\n    def test_sum(self):\n        self.assertEqual(add(1, 2), 3)\n"
LAYOUTS = {
    "check": {"prompt": HEAD, "test": _CHECK, "entry_point": "add"},
    "HumanEval-X": {"prompt": HEAD, "test": "def check(add):\n    assert add(1, 2) == 3\n\ncheck(add)\n", "task_id": "Python/0"},
    "MultiPL-E": {
        "prompt": HEAD, "name": "HumanEval_0_add", "language": "py",
        "tests": _CHECK + "\ndef test_check():\n    check(add)\n\ntest_check()\n",
    },
    "BigCodeBench": {"complete_prompt": HEAD, "entry_point": "add", "test": "import unittest\n" + _UNITTEST},
    "evalplus inputs": {
        "prompt": HEAD, "entry_point": "add", "canonical_solution": "    return a + b\n",
        "base_input": [[1, 2]], "plus_input": [[0.1, 0.2]],
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_python_tests_in_published_layouts(tmp_path, sandbox, layout):
    row = LAYOUTS[layout]
    column = "complete_prompt" if "complete_prompt" in row else "prompt"
    rows = [{**row, "id": "a"}, {**row, "id": "z", column: "# another\n" + HEAD}]
    task = task_of(tmp_path, rows, grader="python")
    assert verdicts(task, RIGHT, sandbox) == ["pass"] * len(RIGHT)
    assert "pass" not in verdicts(task, WRONG, sandbox)


def test_python_assertions_for_a_whole_program(tmp_path, sandbox):
    row = {"prompt": "Write a function that adds.", "test": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]}
    task = one(tmp_path, row, "python")
    assert verdicts(task, [*RIGHT[2:], "def add(a, b):\n    return 3"], sandbox) == ["pass", "pass", "wrong"]


def test_sql_runs_on_the_users_database(tmp_path, sandbox):
    import sqlite3

    (tmp_path / "database" / "shop").mkdir(parents=True)
    with sqlite3.connect(tmp_path / "database" / "shop" / "shop.sqlite") as db:
        db.execute("CREATE TABLE t (a INT)")
        db.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
    task = one(tmp_path, {"prompt": "How many?", "answer": "SELECT count(*) FROM t", "db_id": "shop"}, "sql")
    assert verdicts(task, ["```sql\nSELECT 2\n```", "SELECT count(a) FROM t", "SELECT 3"], sandbox) == [
        "pass",
        "pass",
        "wrong",
    ]


# ---- what is refused, in one line that says the way out ----


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        ([{"q": 1}] * 2, {}, r"no column for prompt \(it has q\); say which: task.columns=\{prompt: COLUMN\}"),
        ([{"prompt": "q"}] * 2, {}, "no column for answer"),
        (ROWS, {"columns": {"answer": "gold"}}, r"has no column 'gold' \(answer\); it has prompt, answer"),
        ([{"prompt": 3, "answer": "a"}] * 2, {}, "row 0: the prompt is neither text nor a list of messages"),
        ([{"prompt": "q", "answer": "a", "split": "foo"}], {}, "row 0: column 'split' holds 'foo'"),
        ([{"prompt": "q", "answer": "five"}] * 2, {"grader": "numeric"}, "row 0: the answer 'five' is not one number"),
        ([{"prompt": "q", "answer": "("}] * 2, {"grader": "regex"}, "no regular expression"),
        ([{"prompt": "q", "answer": "{"}] * 2, {"grader": "json"}, "is not JSON"),
        ([{"prompt": "q", "answer": ""}] * 2, {}, "row 0: no answer"),
        ([{"prompt": "q", "answer": "a"}] * 2, {"grader": "python"}, "row 0: the test is NoneType"),
        ([{"prompt": "q", "test": "x = 1"}] * 2, {"grader": "python"}, "no function to test can be told"),
        ([{"prompt": "q", "answer": "a"}] * 2, {}, "has the prompt of training problem"),
        ([{"prompt": "q", "answer": "a"}], {}, "the training part is empty"),
    ],
)  # fmt: skip
def test_wrong_data_is_one_line(tmp_path, rows, values, message):
    with pytest.raises(DataError, match=message) as caught:
        both(task_of(tmp_path, rows, **values))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grader": "fuzzy"}, "task.grader='fuzzy'"),
        ({"extract": "somewhere"}, "choose all, last_line, boxed, fence or regex:PATTERN"),
        ({"extract": "regex:("}, "no regular expression"),
        ({"columns": {"promt": "q"}}, "task.columns.promt: a column is for one of prompt"),
        ({"train_fraction": 0.0}, "task.train_fraction"),
    ],
)
def test_wrong_settings_are_config_errors(values, message):
    with pytest.raises(ConfigError, match=message):
        make_task("custom", values)


@pytest.mark.slow
def test_the_walk_through_of_the_docs_runs_as_it_stands(tmp_path):
    """From fifty lines to a state that answers held-out questions better than none."""
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    (tmp_path / "run.py").symlink_to(ROOT / "run.py")
    script = re.sub(r"^python ", f"{sys.executable} ", block, flags=re.MULTILINE)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-e"], input=script, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = find_records([tmp_path / "outputs" / "records"])
    record = read_record(path)
    assert record.task_info["n_train"] == record.task_info["n_heldout"] == 25
    assert "prompt: question" in record.task_info["source"]
    assert record.tuned.accuracy > record.baseline.accuracy
