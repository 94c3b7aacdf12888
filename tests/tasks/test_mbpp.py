"""MBPP, MBPP+ and HumanEval+: rows in the schema of their releases (with problems of our own), splits, prompts, grading."""

from __future__ import annotations

import json

import pytest

from s0.errors import DataError
from s0.sandbox import Sandbox
from s0.tasks import make_task
from s0.tasks.base import GradingItem

CODE = "def double_all(values):\n    return [2 * v for v in values]\n"
ASSERTIONS = [
    "assert double_all([1, 2]) == [2, 4]",
    "assert double_all([]) == []",
    "assert set(double_all([3])) == {6}",
]
RIGHT = [CODE, f"Sure:\n```python\n{CODE}```\nDone.", f"{CODE}[DONE]\nmore"]
WRONG = ["def double_all(values):\n    return values\n", "", "prose", "def triple(values):\n    return values\n"]


def full(task_id):
    """A row of the release of all 974 problems (mbpp.jsonl)."""
    return {
        "task_id": task_id, "text": f"Write a function to double numbers, variant {task_id}.",
        "code": CODE.replace("\n", "\r\n"), "test_list": ASSERTIONS, "test_setup_code": "", "challenge_test_list": [],
    }  # fmt: skip


def sanitized(task_id):
    return {
        "source_file": "Benchmark Questions Verification V2.ipynb", "task_id": task_id, "code": CODE,
        "prompt": f"Write a function to double numbers, variant {task_id}.", "test_imports": ["import math"],
        "test_list": ASSERTIONS,
    }  # fmt: skip


PLUS_TEST = """import math

def assertion(out, exp, atol):
    assert out == exp or atol and math.isclose(out, exp, abs_tol=atol)

inputs = [[[1, 2]], [[]]]
results = [[2, 4], []]
for i, (inp, exp) in enumerate(zip(inputs, results)):
    assertion(double_all(*inp), exp, 0)
"""


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1) as sandbox:
        yield sandbox


def check(task, sandbox):
    problem = task.problems("train")[0]
    items = [GradingItem(problem, text) for text in [*RIGHT, *WRONG]]
    passed = [v.passed for v in task.grade_many(items, sandbox)]
    assert passed == [True] * len(RIGHT) + [False] * len(WRONG)


def test_published_split_and_prompt(tmp_path):
    rows = [full(i) for i in (2, 10, 11, 510, 511, 600, 601, 974)]
    task = make_task("mbpp", {"path": write(tmp_path / "mbpp.jsonl", rows)})
    assert [p.id for p in task.problems("train")] == ["mbpp/601", "mbpp/974"]
    assert [p.id for p in task.problems("heldout")] == ["mbpp/11", "mbpp/510"]
    (message,) = task.messages(task.problems("train")[0])
    assert message["content"] == (
        "You are an expert Python programmer, and here is your task: Write a function to double numbers, variant 601. "
        "Your code should pass these tests:\n\n" + "\n".join(ASSERTIONS) + "\n"
    )
    assert task.problems("train")[0].meta["entry_point"] == "double_all"


def test_tables_named_train_and_test_are_the_parts(tmp_path):
    write(tmp_path / "train.jsonl", [full(601)])
    write(tmp_path / "test.jsonl", [full(11), full(12)])
    write(tmp_path / "validation.jsonl", [full(520)])
    task = make_task("mbpp", {"path": str(tmp_path)})
    assert [len(task.problems(part)) for part in ("train", "heldout")] == [1, 2]


@pytest.mark.parametrize("row", [full, sanitized])
def test_assertions_are_run(tmp_path, sandbox, row):
    check(make_task("mbpp", {"path": write(tmp_path / "mbpp.jsonl", [row(601), row(11)])}), sandbox)


def test_plus_tests_are_run_and_halved(tmp_path, sandbox):
    rows = [{**sanitized(i), "test": PLUS_TEST} for i in (2, 3, 4, 6)]
    task = make_task("mbpp_plus", {"path": write(tmp_path / "plus.jsonl", rows)})
    assert [[p.id for p in task.problems(part)] for part in ("train", "heldout")] == [
        ["mbpp/2", "mbpp/3"],
        ["mbpp/4", "mbpp/6"],
    ]
    check(task, sandbox)


def test_plus_tests_import_numpy(tmp_path):
    row = {
        **sanitized(2),
        "test": PLUS_TEST.replace("import math", "import math\nimport numpy as np\nassert np.zeros(1).sum() == 0"),
    }
    task = make_task("mbpp_plus", {"path": write(tmp_path / "plus.jsonl", [row, {**sanitized(3), "test": PLUS_TEST}])})
    with Sandbox(workers=1, packages=["numpy"]) as sandbox:
        check(task, sandbox)


def test_plus_rows_without_test_code_say_which_release_has_it(tmp_path):
    path = write(tmp_path / "plus.jsonl", [sanitized(2), sanitized(3)])
    with pytest.raises(DataError, match="task 2 has no column 'test'; take the release evalplus/mbppplus"):
        make_task("mbpp_plus", {"path": path}).problems("train")


def test_a_row_without_assertions_is_named(tmp_path):
    path = write(tmp_path / "mbpp.jsonl", [{**full(601), "test_list": []}, full(11)])
    with pytest.raises(DataError, match=r"mbpp\.jsonl.*, task 601: the test is list"):
        make_task("mbpp", {"path": path}).problems("train")


@pytest.mark.parametrize("form", ["test code", "inputs"])
def test_humaneval_plus_in_both_releases(tmp_path, sandbox, form):
    head = 'def half(x: float) -> float:\n    """Half of x."""\n'
    row = {"prompt": head, "entry_point": "half", "canonical_solution": "    return x / 2\n"}
    if form == "test code":
        row["test"] = "def check(candidate):\n    assert abs(candidate(3) - 1.5) < 1e-9\n"
    else:
        row |= {"base_input": [[3], [0.3]], "plus_input": [[1e9]], "atol": 1e-6, "contract": ""}
    rows = [{**row, "task_id": f"HumanEval/{i}", "prompt": head.replace("Half", f"({i}) Half")} for i in range(4)]
    task = make_task("humaneval_plus", {"path": write(tmp_path / "plus.jsonl", rows)})
    problem = task.problems("train")[0]
    assert task.messages(problem)[0]["content"].startswith("Complete the following Python function.")
    texts = ["    return x / 2", "    return x * 0.5 + 1e-12", "    return x // 2", "    return None"]
    passed = [v.passed for v in task.grade_many([GradingItem(problem, text) for text in texts], sandbox)]
    assert passed == [True, True, False, False]


def test_reference_solutions_are_judged_as_the_data_has_them(tmp_path, sandbox):
    rows = [full(601), {**full(602), "code": WRONG[0]}, full(11)]
    task = make_task("mbpp", {"path": write(tmp_path / "mbpp.jsonl", rows)})
    answers = task.references()
    items = [GradingItem(p, answers[p.id]) for p in task.problems("train")]
    assert [v.passed for v in task.grade_references(items, sandbox)] == [True, False]
