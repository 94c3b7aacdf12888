"""What a task is: problems with a fixed split, a prompt, stop rules and a grader.

A task never touches the model. The pipeline asks it for `problems(part)`, renders `messages(problem)` through the
tokenizer's chat template (thinking disabled), and hands what the model wrote to `grade`.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from s0.data import Problem, Verdict

if TYPE_CHECKING:
    from s0.sandbox import Sandbox

Part = Literal["train", "heldout"]


@dataclass(frozen=True)
class GradingItem:
    """One completion to grade; `text` is the raw model output, cleaned by the task."""

    problem: Problem
    text: str


class Task(abc.ABC):
    """Base of all tasks. Subclasses set the class attributes and implement the abstract methods.

    Published splits, prompts and limits: paper, section 4 (experimental setup).
    """

    name: ClassVar[str]
    #: strings that end a completion when they appear in the generated text (besides the end-of-turn token)
    stop: ClassVar[tuple[str, ...]] = ()
    #: raise it when prompts, cleaning or grading mean something else than before; code that only moved needs no new number
    version: ClassVar[int] = 1
    #: breakdown columns found in Problem.meta (e.g. ("level", "subject"))
    breakdowns: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def problems(self, part: Part) -> list[Problem]:
        """Problems of the training part or of the held-out part, in benchmark order. Raises DataError."""

    @abc.abstractmethod
    def messages(self, problem: Problem) -> list[dict[str, str]]:
        """Chat messages (role/content) of the user turn."""

    @abc.abstractmethod
    def clean(self, problem: Problem, text: str) -> str:
        """The answer inside the raw model output: thinking blocks and code fences stripped."""

    @abc.abstractmethod
    def grade_many(self, items: Sequence[GradingItem], sandbox: Sandbox | None) -> list[Verdict]:
        """Verdicts in the order of `items`; runs on all sandbox workers. Raises SandboxError, never scores infra failures."""

    @abc.abstractmethod
    def dataset_hash(self) -> str:
        """Content hash of every problem of both parts (prompt, reference and split)."""

    def references(self) -> dict[str, str]:
        """Problem id -> its reference solution, where the data has one that can be judged; loads the data."""
        return {}

    def grade_references(self, items: Sequence[GradingItem], sandbox: Sandbox | None) -> list[Verdict]:
        """As `grade_many`, for reference solutions (`text` as the data has it, cleaned of nothing)."""
        return self.grade_many(items, sandbox)

    def grade(self, problem: Problem, text: str, sandbox: Sandbox | None) -> Verdict:
        return self.grade_many([GradingItem(problem, text)], sandbox)[0]
