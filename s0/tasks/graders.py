"""When an answer to a user's own question counts as right. Each grader takes (accepted answers, model's answer) pairs.

`exact`, `contains`: text with white space collapsed. `numeric`: one number, exactly or within a relative tolerance. `math`: as
MATH-500, `json`: the same JSON value, `regex`: the accepted answer is a pattern found somewhere. One accepted answer of
several is enough.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from s0.data import Verdict
from s0.tasks.gsm8k import extract_answer, parse_number
from s0.tasks.limited import Handler, LimitedPool
from s0.tasks.math_pool import MathPool
from s0.tasks.text import fenced_blocks, last_boxed

PATTERNS = Handler(Path(__file__).with_name("patterns.py"), 1 << 30, flags=("-I", "-S"))
#: CPU seconds for one pattern over one answer
PATTERN_LIMIT_S = 2.0

Pair = tuple[Sequence[str], str]
Compare = Callable[[Sequence[Pair]], list[Verdict]]


@cache
def _patterns() -> LimitedPool:
    return LimitedPool(PATTERNS, PATTERN_LIMIT_S)


def extracted(rule: str, texts: Sequence[str]) -> list[str | None]:
    """The answer inside each text by `task.extract`; None where the rule finds none. Raises S0Error."""
    if rule.startswith("regex:"):
        replies = _patterns().map([{"pattern": rule.removeprefix("regex:"), "text": text} for text in texts])
        return [reply.value if reply.kind == "ok" else None for reply in replies]
    return [EXTRACT[rule](text) for text in texts]


def _last_line(text: str) -> str | None:
    return text.rstrip().rpartition("\n")[2].strip() or None


def _fence(text: str) -> str | None:
    return next((content for _, content in fenced_blocks(text) if content.strip()), None)


#: rules of `task.extract`, besides `regex:PATTERN`
EXTRACT: dict[str, Callable[[str], str | None]] = {
    "all": lambda text: text,
    "last_line": _last_line,
    "boxed": last_boxed,
    "fence": _fence,
}


def plain(text: str) -> str:
    return " ".join(text.split())


def exact(pairs: Sequence[Pair]) -> list[Verdict]:
    return [_verdict(plain(text) in map(plain, accepted), text, accepted) for accepted, text in pairs]


def contains(pairs: Sequence[Pair]) -> list[Verdict]:
    return [_verdict(any(plain(a) in plain(text) for a in accepted), text, accepted) for accepted, text in pairs]


def numeric(pairs: Sequence[Pair], tolerance: float = 0.0) -> list[Verdict]:
    """Numbers as GSM8K reads them; equal within `tolerance` times the accepted number."""
    verdicts = []
    for accepted, text in pairs:
        value, where = extract_answer(text)
        right = [number for a in accepted if (number := parse_number(a)) is not None]
        near = value is not None and any(abs(value - r) <= Fraction(tolerance) * abs(r) for r in right)
        found = f"{where}: {'no number' if value is None else float(value)}"
        verdicts.append(Verdict("pass", found) if near else Verdict("wrong", f"{found}, expected {_shown(accepted)}"))
    return verdicts


def math(pairs: Sequence[Pair], pool: MathPool) -> list[Verdict]:
    """Compared by math-verify; the last box of the text, where there is one."""
    jobs = [(accepted, last_boxed(text) or text.strip()) for accepted, text in pairs]
    flat = [(a, text) for accepted, text in jobs for a in accepted]
    results = iter(pool.compare(flat))
    verdicts = []
    for accepted, text in jobs:
        mine = [next(results) for _ in accepted]
        best = next((r for r in mine if r.kind == "pass"), mine[0])
        detail = best.detail or f"answer {text[:80]}"
        shown = detail if best.kind == "pass" else f"{detail}, expected {_shown(accepted)}"
        verdicts.append(Verdict(best.kind, shown, sum(r.seconds for r in mine)))
    return verdicts


def regex(pairs: Sequence[Pair]) -> list[Verdict]:
    """The accepted answers are patterns; one of them is found in the text. Patterns run in a limited process."""
    flat = [{"pattern": pattern, "text": text} for accepted, text in pairs for pattern in accepted]
    replies = iter(_patterns().map(flat))
    verdicts = []
    for accepted, text in pairs:
        mine = [next(replies) for _ in accepted]
        if any(r.kind == "ok" and r.value is not None for r in mine):
            verdicts.append(Verdict("pass", f"answer {plain(text)[:80]}"))
        else:
            failed = next((r for r in mine if r.kind != "ok"), None)
            verdicts.append(Verdict(failed.kind, failed.detail) if failed else _verdict(False, text, accepted))  # type: ignore[arg-type]
    return verdicts


def json_value(pairs: Sequence[Pair]) -> list[Verdict]:
    verdicts = []
    for accepted, text in pairs:
        try:
            value = read_json(text)
            same = any(_same_json(value, read_json(a)) for a in accepted)
        except (ValueError, RecursionError) as error:
            verdicts.append(Verdict("wrong", f"not JSON ({plain(str(error))[:80]}), expected {_shown(accepted)}"))
        else:
            verdicts.append(_verdict(same, text, accepted))
    return verdicts


def read_json(text: str) -> Any:
    """Raises ValueError (also for NaN and infinities, which JSON has not) or RecursionError."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def _same_json(left: Any, right: Any) -> bool:
    """Equality in which true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same_json(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same_json, left, right))
    return bool(left == right)


def checked_pattern(pattern: str) -> str | None:
    """Why `pattern` is no regular expression, or None."""
    try:
        re.compile(pattern, re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return None


def _verdict(right: bool, text: str, accepted: Sequence[str]) -> Verdict:
    shown = f"answer {plain(text[:400])[:80]}"
    return Verdict("pass", shown) if right else Verdict("wrong", f"{shown}, expected {_shown(accepted)}")


def _shown(accepted: Sequence[str]) -> str:
    return " or ".join(plain(a[:400])[:80] for a in accepted[:3])
