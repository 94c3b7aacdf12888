"""What the sandbox's tests share: one small task, and the frame around every attack on it."""

from __future__ import annotations

import os
from pathlib import Path

from s0.data import Verdict
from s0.sandbox import PythonCheck, Sandbox

PROMPT = 'def f(x):\n    """Return x + 1."""\n'
TEST = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(41) == 42\n"


def increment(completion: str, timeout_s: float | None = None) -> PythonCheck:
    """The task of most tests: a completion of `f`, which must add one."""
    return PythonCheck(PROMPT, completion, TEST, "f", timeout_s)


GOOD = increment("    return x + 1\n")


def attack(sandbox: Sandbox, completion: str, timeout_s: float | None = None) -> Verdict:
    """The verdict on a hostile program, after making sure that the same worker still judges an honest one rightly."""
    assert sandbox.check(GOOD).kind == "pass"
    started = sandbox.started
    verdict = sandbox.check(increment(completion, timeout_s))
    after = sandbox.check(GOOD)
    assert after.kind == "pass", after
    assert sandbox.started == started, "the attack cost the worker its life"
    return verdict


def descendants(pid: int) -> set[int]:
    """All living processes below `pid`."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if stat[0] != "Z":
                parents[int(name)] = int(stat[1])
    found, grew = {pid}, True
    while grew:
        more = {child for child, parent in parents.items() if parent in found} - found
        found |= more
        grew = bool(more)
    return found - {pid}
