"""The layout repair of `s0.tasks.pycode`, done in a limited process: what a model wrote is never parsed in this one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from s0.tasks.limited import Handler, LimitedPool

HANDLER = Handler(Path(__file__).with_name("pycode.py"), 1 << 30, flags=("-I", "-S"))
#: CPU seconds for one answer; honest ones take about a millisecond
LIMIT_S = 5.0


@cache
def _pool() -> LimitedPool:
    return LimitedPool(HANDLER, LIMIT_S)


def body_layout(prompt: str, answer: str, entry_point: str) -> str:
    """`function_body(prompt, answer, entry_point)`; the answer as it is where its layout cannot be told within the limits.

    Raises S0Error when no process can start.
    """
    reply = _pool().map([{"prompt": prompt, "answer": answer, "entry_point": entry_point}])[0]
    return reply.value if reply.kind == "ok" else answer + "\n"
