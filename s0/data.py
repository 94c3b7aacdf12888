"""The things that travel between the stages of an experiment.

    config -> problems -> completions -> verdicts -> examples -> state -> evaluation -> record -> table cell

Each is a small frozen dataclass that serialises with `to_json` / `from_json` (plain JSON types only).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

VerdictKind = Literal["pass", "wrong", "error", "timeout", "memory", "protocol", "unjudged", "data", "infra"]
VERDICT_KINDS: tuple[str, ...] = get_args(VerdictKind)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the form every hash in the project is taken over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, length: int = 16) -> str:
    """First `length` hex digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


class Serialisable:
    """`to_json` / `from_json` for flat dataclasses; unknown keys are refused so that a schema change is noticed."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(data) - known)
        if unknown:
            raise ValueError(
                f"{cls.__name__}: unknown field(s) {', '.join(unknown)}; known: {', '.join(sorted(known))}"
            )
        return cls(**data)


@dataclass(frozen=True)
class Problem(Serialisable):
    """One benchmark problem.

    `prompt` is what the task shows (for HumanEval: the function header with docstring); `reference` is what grading
    needs and the model never sees (tests, gold answer, gold SQL); `meta` holds breakdown columns such as level,
    subject, db_id, entry_point.
    """

    id: str
    prompt: str
    reference: str
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion(Serialisable):
    """One generated answer. `text` is what the model wrote (special tokens removed); `token_ids` is its exact encoding,
    end-of-turn token included when it was produced; `finish` is "stop" (EOS or stop string) or "length"."""

    problem_id: str
    sample: int
    text: str
    token_ids: list[int]
    finish: Literal["stop", "length"]


@dataclass(frozen=True)
class Verdict(Serialisable):
    """What grading decided. `tier` names the isolation under which code ran ("" where nothing was executed)."""

    kind: VerdictKind
    detail: str = ""
    seconds: float = 0.0
    tier: str = ""

    def __post_init__(self) -> None:
        if self.kind not in VERDICT_KINDS:
            raise ValueError(f"Verdict.kind={self.kind!r}: must be one of {', '.join(VERDICT_KINDS)}")

    @property
    def passed(self) -> bool:
        return self.kind == "pass"


@dataclass(frozen=True)
class Example(Serialisable):
    """One verified training example: prompt and completion as token ids (completion-only loss, paper section 3)."""

    problem_id: str
    prompt_ids: list[int]
    completion_ids: list[int]


@dataclass(frozen=True)
class Outcome(Serialisable):
    """One problem's part of an evaluation: what was written and how it was judged.

    With n > 1 samples, `n` and `c` are the counts the unbiased pass@k estimator needs, and `completion`/`verdict`
    are those of sample 0.
    """

    problem_id: str
    completion: str
    verdict: Verdict
    n: int = 1
    c: int = 0
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.verdict.passed

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "verdict": Verdict.from_json(data["verdict"])})
