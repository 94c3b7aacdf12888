"""The MATH-500 task on its fixture: what is read, shown, extracted and graded."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from s0.errors import DataError
from s0.tasks import make_task
from s0.tasks.base import GradingItem

DATA = Path(__file__).parents[1] / "data" / "math500"


@pytest.fixture(scope="module")
def task():
    return make_task("math500", {"path": str(DATA), "grading_timeout_s": 20.0})


def all_problems(task):
    return task.problems("train") + task.problems("heldout")


def test_breakdowns_come_from_the_data(task):
    assert task.breakdowns == ("level", "subject")
    assert {p.meta["level"] for p in all_problems(task)} == {1, 2, 3, 4, 5}
    assert len({p.meta["subject"] for p in all_problems(task)}) == 7
    for part in ("train", "heldout"):
        assert len({p.meta["subject"] for p in task.problems(part)}) == 7


def test_prompt_asks_for_a_box(task):
    problem = task.problems("train")[0]
    (message,) = task.messages(problem)
    assert message["role"] == "user"
    assert message["content"].endswith("\\boxed{}.\n\n" + problem.prompt)


def test_the_gold_solution_of_every_problem_passes(task):
    rows = {r["unique_id"]: r for r in map(json.loads, (DATA / "test.jsonl").read_text(encoding="utf-8").splitlines())}
    items = [GradingItem(p, rows[p.id]["solution"]) for p in all_problems(task)]
    assert [(i.problem.id, v) for i, v in zip(items, task.grade_many(items, None), strict=True) if not v.passed] == []


def test_another_problems_answer_does_not_pass(task):
    problems = all_problems(task)
    items = [
        GradingItem(p, f"\\boxed{{{q.reference}}}")
        for p, q in zip(problems, problems[1:] + problems[:1], strict=True)
        if p.reference != q.reference
    ]
    assert [(i, v) for i, v in zip(items, task.grade_many(items, None), strict=True) if v.passed] == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (r"Work.\n\nThe answer is $\boxed{5}$.", "pass"),
        (r"First \boxed{4}, corrected: \boxed{5}", "pass"),
        (r"First \boxed{5}, corrected: \boxed{4}", "wrong"),
        (r"<think>\boxed{4}</think> \boxed{5}", "pass"),
        (r"<think>\boxed{5}</think> I do not know", "wrong"),
        (r"<think>\boxed{5}", "wrong"),
        (r"\boxed{x = 5}", "pass"),
        (r"\boxed 5", "pass"),
        ("The answer is 5.", "wrong"),
        ("#### 5", "wrong"),
        (r"\boxed{5", "wrong"),
        (r"\boxed{}", "wrong"),
        ("", "wrong"),
    ],
)
def test_only_the_last_box_counts(task, text, kind):
    problem = next(p for p in all_problems(task) if p.reference == "5")
    assert task.grade(problem, text, None).kind == kind


def test_wrong_verdicts_say_what_was_expected(task):
    problem = next(p for p in all_problems(task) if p.reference == "5")
    assert task.grade(problem, r"\boxed{6}", None).detail == "answer 6, expected 5"
    assert task.grade(problem, "nothing", None).detail == "no boxed answer"


def test_grades_from_a_thread(task):
    problem = task.problems("train")[0]
    verdicts = []
    thread = threading.Thread(
        target=lambda: verdicts.append(task.grade(problem, f"\\boxed{{{problem.reference}}}", None))
    )
    thread.start()
    thread.join(120)
    assert [v.kind for v in verdicts] == ["pass"]


def test_row_without_gold_is_refused(tmp_path):
    row = json.loads((DATA / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    file = tmp_path / "test.jsonl"
    file.write_text(
        json.dumps({**row, "solution": "none", "answer": " "}) + "\n" + json.dumps({**row, "unique_id": "b"})
    )
    with pytest.raises(DataError, match="has no boxed solution and no answer"):
        make_task("math500", {"path": str(file)}).problems("train")
    file.write_text(
        json.dumps({**row, "solution": "none", "answer": "7"})
        + "\n"
        + json.dumps({**row, "unique_id": "b", "problem": "q"})
    )
    assert make_task("math500", {"path": str(file)}).problems("train")[0].reference == "7"
