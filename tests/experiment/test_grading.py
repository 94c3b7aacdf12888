"""Grading keeps what it can: one answer never costs another its verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from s0.cli.compose import make_plan, parse_args
from s0.config.schema import Config, TaskConfig
from s0.data import Problem, Verdict
from s0.errors import DataError, SandboxError
from s0.experiment.cell import Cell
from s0.experiment.grading import Grader
from s0.experiment.resources import Resources
from s0.storage.store import Store
from s0.tasks.base import GradingItem

SETTINGS = Config(task=TaskConfig(name="fake"))
PROBLEM = Problem("T/0", "prompt", "reference")


class _Task:
    """Answers are the verdicts themselves; "crash" makes the grader stumble over whatever stands beside it, too."""

    name = "fake"
    version = 1

    def grade_many(self, items: Sequence[GradingItem], sandbox: Any) -> list[Verdict]:
        if any(i.text == "crash" for i in items):
            raise RecursionError("too deep")
        if any(i.text == "refused" for i in items):
            raise SandboxError("no sandbox here")
        return [Verdict(i.text, "why") for i in items]  # type: ignore[arg-type]


@pytest.fixture
def grader(tmp_path: Path) -> Iterator[Grader]:
    made = Grader(_Task(), SETTINGS, lambda: None, Store(str(tmp_path)))  # type: ignore[arg-type]
    yield made
    made.close()


def stored(grader: Grader) -> list[str]:
    return sorted(v["kind"] for v in grader.log.refresh().values())


def test_an_answer_the_grader_stumbles_over_is_unjudged_and_the_others_are_kept(grader: Grader) -> None:
    for text in ("pass", "crash", "wrong"):
        grader.submit(PROBLEM, text)
    grader.wait()
    assert stored(grader) == ["pass", "wrong"]
    verdict = grader.verdict(PROBLEM, "crash")
    assert (verdict.kind, verdict.passed) == ("unjudged", False)
    assert "RecursionError" in verdict.detail


@pytest.mark.parametrize("bad", ["infra", "data", "refused"])
def test_faults_of_machine_and_data_are_raised_after_the_others_are_stored(grader: Grader, bad: str) -> None:
    for text in ("pass", bad, "timeout"):
        grader.submit(PROBLEM, text)
    with pytest.raises(SandboxError, match="T/0"):
        grader.wait()
    assert stored(grader) == ["pass", "timeout"]


# -- the data's own solutions -------------------------------------------------------------------------------------------

ROW = {
    "prompt": 'def f{n}(x):\n    """Return x + {n}."""\n',
    "canonical_solution": "    return x + {n}\n",
    "test": "def check(candidate):\n    assert candidate(1) == 1 + {n}\n",
    "entry_point": "f{n}",
}


def _rows(path: Path, wrong: Sequence[int] = (), without: Sequence[int] = (), n: int = 6) -> str:
    rows = []
    for i in range(n):
        row = {"task_id": f"T/{i}", **{k: v.replace("{n}", str(i)) for k, v in ROW.items()}}
        if i in wrong:
            row["canonical_solution"] = "    return x - 1\n"
        if i in without:
            row["canonical_solution"] = ""
        rows.append(json.dumps(row))
    path.write_text("\n".join(rows) + "\n")
    return str(path)


@pytest.fixture
def cell_of(tmp_path: Path) -> Iterator[Any]:
    with ExitStack() as stack:

        def made(gold: str, **rows: Any) -> Cell:
            path = _rows(tmp_path / "rows.jsonl", **rows)
            args = ["model=tiny_gdn", "task=minieval", f"task.path={path}", f"task.gold={gold}", f"store={tmp_path}/s"]
            config = make_plan(parse_args(args)).cells[0].config
            resources = stack.enter_context(Resources(Store(config.store), config.sandbox))
            cell = Cell(config, resources)
            stack.callback(cell.grader.close)
            return cell

        yield made


def test_problems_whose_own_solution_fails_are_named_and_left_out(
    cell_of: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = cell_of("warn", wrong=[1, 4], without=[5])
    key = cell.record_key(0)
    cell.check_references()
    assert [p.id for p in cell.train_problems] == ["T/0", "T/2"]
    assert [p.id for p in cell.heldout] == ["T/3", "T/5"]
    assert set(cell.left_out) == {"T/1", "T/4"}
    shown = capsys.readouterr().out
    assert "T/1 (wrong: " in shown
    assert "T/4" in shown
    assert cell.record_key(0) == key


def test_references_are_judged_once(cell_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cell_of("warn").check_references()
    again = cell_of("warn")
    monkeypatch.setattr(type(again.task), "grade_references", lambda *a: pytest.fail("judged again"))
    again.check_references()
    assert again.left_out == {}


def test_a_failing_reference_is_refused_or_not_looked_at(cell_of: Any) -> None:
    with pytest.raises(DataError, match=r"T/1 .*task\.gold=skip"):
        cell_of("refuse", wrong=[1]).check_references()
    cell = cell_of("skip", wrong=[1])
    cell.check_references()
    assert len(cell.train_problems) == 3


def test_a_part_without_sound_problems_is_refused(cell_of: Any) -> None:
    with pytest.raises(DataError, match="6 problems"):
        cell_of("warn", wrong=[3, 4, 5]).check_references()
