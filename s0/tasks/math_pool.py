"""Comparison of mathematical answers in processes with a CPU limit.

math-verify's own limit is a signal handler: it works in the main thread only and cannot interrupt native code.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from s0.tasks.limited import Handler, LimitedPool

HANDLER = Handler(
    Path(__file__).with_name("math_worker.py"),
    3 << 30,
    hint=f"try `{sys.executable} -c 'import math_verify'` and install the package math-verify",
)


@dataclass(frozen=True)
class Comparison:
    """`kind` is "pass" (equal), "wrong" (different), or why there is no answer: "timeout", "memory", "error"."""

    kind: Literal["pass", "wrong", "timeout", "memory", "error"]
    detail: str = ""
    seconds: float = 0.0


class MathPool(LimitedPool):
    """Compare (gold, answer) pairs on `workers` processes, each pair within `limit_s` seconds of CPU time."""

    def __init__(self, limit_s: float, workers: int | None = None) -> None:
        super().__init__(HANDLER, limit_s, workers)

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
        """Comparisons in the order of `pairs`. Raises S0Error when no process can start."""
        replies = self.map([{"gold": gold, "answer": answer} for gold, answer in pairs])
        return [
            Comparison("pass" if r.value else "wrong", "", r.seconds)
            if r.kind == "ok"
            else Comparison(r.kind, r.detail, r.seconds)
            for r in replies
        ]
