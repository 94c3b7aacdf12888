"""minieval is what it says: deterministic, executable, mutation-tested, and answered by none of the wrong modes."""

from __future__ import annotations

import json
import random

import pytest

from s0.tasks import make_task
from s0.tiny import benchmark
from s0.tiny.grammar import MODES, OPENERS, sample_answer

ROWS = benchmark.load()
REQUESTS = benchmark.requests()


def passes(row: dict[str, str], completion: str) -> bool:
    """Run trusted text only (the grammar's own); everything a model writes goes through s0.sandbox."""
    space: dict = {}
    try:
        exec(row["prompt"] + completion + "\n" + row["test"], space)
        space["check"](space[row["entry_point"]])
    except Exception:
        return False
    return True


def test_generation_is_deterministic():
    assert benchmark.dumps(benchmark.generate()) == benchmark.PATH.read_text(encoding="utf-8")


def test_humaneval_form():
    assert len(ROWS) == 164
    for i, row in enumerate(ROWS):
        assert list(row) == ["task_id", "prompt", "entry_point", "canonical_solution", "test"]
        assert row["task_id"] == f"minieval/{i}"
        assert row["prompt"].startswith(f"def {row['entry_point']}(")
        assert "def check(candidate):" in row["test"]


def test_every_canonical_solution_passes_and_return_none_never_does():
    for row in ROWS:
        assert passes(row, row["canonical_solution"]), row["task_id"]
        for nothing in ("    return None", "    pass", "    return []", "    return ''", "    return 0"):
            assert not passes(row, nothing), (row["task_id"], nothing)


def test_both_parts_have_the_same_openers():
    def share(part, opener):
        return sum(r.opener == opener for r in part) / len(part)

    for opener, (wanted, _) in OPENERS.items():
        assert share(REQUESTS[:80], opener) == pytest.approx(wanted, abs=0.02)
        assert share(REQUESTS[80:], opener) == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("mode", [m for m in MODES if m != "body"])
def test_every_wrong_mode_fails_after_cleaning(mode):
    """Prose is no Python, a function of another name leaves the asked one empty, `pass` returns None."""
    task = make_task("minieval")
    problems = task.problems("train") + task.problems("heldout")
    rng = random.Random(0)
    for request, row, problem in zip(REQUESTS, ROWS, problems, strict=True):
        answer = sample_answer(rng, request)
        while answer.mode != mode:
            answer = sample_answer(rng, request)
        assert not passes(row, task.clean(problem, answer.text)), (row["task_id"], answer.text)


def test_every_single_habit_fails():
    """A habit bug is a wrong program on every problem where it can occur, unless it computes the same function."""
    found = 0
    for request, row in zip(REQUESTS, ROWS, strict=True):
        for i, (op, _) in enumerate(request.program.stages):
            if op.habit is not None:
                found += 1
                habits = tuple(j == i for j in range(4))
                assert not passes(row, request.body(habits=habits)), row["task_id"]
    assert found > 30


def test_tests_compare_types():
    row = next(r for r in ROWS if "len(" in r["canonical_solution"])
    body = row["canonical_solution"].strip().removeprefix("return ")
    assert passes(row, f"    return {body}")
    assert not passes(row, f"    return float({body})")


def test_task_split_and_prompt():
    task = make_task("minieval")
    train, heldout = task.problems("train"), task.problems("heldout")
    assert [p.id for p in train] == [f"minieval/{i}" for i in range(80)]
    assert [p.id for p in heldout] == [f"minieval/{i}" for i in range(80, 164)]
    assert task.messages(train[0]) == [{"role": "user", "content": ROWS[0]["prompt"]}]
    assert task.source.startswith("shipped file")


def test_task_reads_a_file_in_the_same_format(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in ROWS[:4]), encoding="utf-8")
    task = make_task("minieval", {"path": str(path)})
    assert [p.id for p in task.problems("heldout")] == ["minieval/2", "minieval/3"]


@pytest.mark.slow
def test_canonical_solutions_pass_in_the_sandbox():
    sandbox = pytest.importorskip("s0.sandbox")
    if not hasattr(sandbox, "Sandbox"):
        pytest.skip("s0.sandbox has no Sandbox")
    from s0.tasks.base import GradingItem

    task = make_task("minieval")
    problems = task.problems("train") + task.problems("heldout")
    with sandbox.Sandbox() as box:
        good = task.grade_many(
            [GradingItem(p, r["canonical_solution"]) for p, r in zip(problems, ROWS, strict=True)], box
        )
        none = task.grade_many([GradingItem(p, "    return None") for p in problems], box)
    assert [v for v in good if not v.passed] == []
    assert not any(v.passed for v in none)
