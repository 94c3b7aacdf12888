"""What the sandbox's tests share: one small task, and the frame around every attack on it."""

from __future__ import annotations

from s0.sandbox import PythonCheck, Sandbox
from s0.schema import Verdict

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
