"""Grading keeps what it can: one answer never costs another its verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from s0.config.schema import Config, TaskConfig
from s0.data import Problem, Verdict
from s0.errors import SandboxError
from s0.experiment.grading import Grader
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
