"""What every worker must get right before its first verdict counts; a mismatch raises, it never scores.

A sandbox that fails every check looks exactly like a bad model, and one that isolates nothing like a good sandbox.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable

from s0 import errors
from s0.data import Verdict
from s0.errors import SandboxError
from s0.sandbox.jobs import PythonCheck

_PROBE = '''
def probe(path):
    """What happens when the sandbox's promise is tested."""
    try:
        {attempt}
    except (OSError, ImportError):
        return "denied"
    return "allowed"
'''
_TEST = 'def check(candidate):\n    assert candidate({path!r}) == "denied", "it was allowed"\n'
_GOOD = PythonCheck("def double(x):\n", "    return 2 * x\n", "def check(f):\n    assert f(21) == 42\n", "double")
_WRONG = PythonCheck("def double(x):\n", "    return 2 * x + 1\n", "def check(f):\n    assert f(21) == 42\n", "double")
_ATTEMPTS = {
    "read a file outside the allow-list": "open(path).read()",
    "write a file": "open(path, 'w').close()",
    "use the network": "import socket; socket.socket().connect_ex(('127.0.0.1', 9))",
    "start a process": "import os; os.fork() or os._exit(0)",
}


def _probe(attempt: str, path: str) -> PythonCheck:
    return PythonCheck("", _PROBE.format(attempt=attempt), _TEST.format(path=path), "probe")


def run(check: Callable[[PythonCheck], Verdict], tier: str) -> None:
    """Run the known answers, and the probes where `tier` claims isolation. Raises SandboxError."""
    expected = [("pass a right program", _GOOD, "pass"), ("fail a wrong program", _WRONG, "wrong")]
    target = os.path.join(tempfile.gettempdir(), f"s0-sandbox-probe-{uuid.uuid4().hex}")
    if tier.startswith("isolated"):
        for what, attempt in _ATTEMPTS.items():
            path = os.path.realpath(errors.__file__) if what.startswith("read") else target
            expected.append((f"refuse to {what}", _probe(attempt, path), "pass"))
    try:
        for what, probe, kind in expected:
            verdict = check(probe)
            if verdict.kind != kind:
                raise SandboxError(
                    f"sandbox: self-test failed under {tier}: it should {what} but said {verdict.kind!r} "
                    f"({verdict.detail}); no result from this machine can be trusted, please report it"
                )
        if os.path.exists(target):
            raise SandboxError(f"sandbox: self-test failed under {tier}: a confined program created {target}")
    finally:
        if os.path.exists(target):
            os.unlink(target)
