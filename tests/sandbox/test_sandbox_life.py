"""What the pool does around the checks: verdict kinds, self-test, retries, errors, and what remains when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sandbox_help import GOOD, PROMPT, TEST, descendants, increment

from s0.data import Verdict
from s0.errors import SandboxError
from s0.sandbox import PythonCheck, Sandbox, selftest, worker


def _judges() -> list[int]:
    """Judge processes started by this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if entry.joinpath("cmdline").read_bytes().endswith(f"judge\0{os.getpid()}\0".encode()):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _below(pid: int) -> set[int]:
    return {pid, *descendants(pid)}


def _gone(pids: set[int]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{p}").exists() and _state(p) != "Z" for p in pids):
            return True
        time.sleep(0.02)
    return False


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


KINDS = {
    "pass": "    return x + 1\n",
    "wrong": "    return x\n",
    "error": "    return x / 0\n",
    "memory": "    return bytes(6 << 30)\n",
    "protocol": "    import os; os.write(4, b'not a frame')\n    return x + 1\n",
    "unjudged": "    return Own()\nclass Own:\n    __eq__ = lambda self, other: other == 2\n",
}


@pytest.mark.parametrize("kind", KINDS)
def test_verdict_kinds(auto: Sandbox, kind: str) -> None:
    verdict = auto.check(increment(KINDS[kind]))
    assert isinstance(verdict, Verdict)
    assert (verdict.kind, verdict.tier, verdict.passed) == (kind, auto.tier, kind == "pass")
    assert verdict.seconds > 0
    assert "\n" not in verdict.detail


@pytest.mark.parametrize(
    ("completion", "part"),
    [
        ("    return x +\n", "SyntaxError"),
        ("  return x\n      y\n", "IndentationError"),
        ("    return y\n", "NameError: name 'y' is not defined"),
        ("    raise ValueError('line\\nbreak')\n", "ValueError: line break"),
        ("    return x\ndel f\n", "is the function defined?"),
        ("    raise Mine('x')\nclass Mine(KeyError): pass\n", "Mine"),
        ("    import numpy\n", "ModuleNotFoundError"),
        ("    import os; os._exit(3)\n", "exit status 3"),
        ("    import os; os.kill(os.getpid(), 9); import time; time.sleep(9)\n", "closed its pipes"),
        ("    import ctypes; ctypes.string_at(0)\n", "SIGSEGV"),
    ],
)
def test_details_name_the_cause(auto: Sandbox, completion: str, part: str) -> None:
    verdict = auto.check(increment(completion))
    assert verdict.kind in ("error", "protocol")
    assert part in verdict.detail


def test_map_keeps_the_order_on_several_workers() -> None:
    checks = [increment(f"    return x + {i % 2}\n") for i in range(40)]
    with Sandbox(workers=3) as sandbox:
        assert [v.passed for v in sandbox.map(checks)] == [bool(i % 2) for i in range(40)]
        assert sandbox.started <= 3


def test_nothing_starts_before_the_first_job() -> None:
    before = set(_judges())
    with Sandbox(workers=2) as sandbox:
        assert set(_judges()) == before
        assert sandbox.submit(GOOD).result().passed
        assert sandbox.started == 1, "one job needs one worker"


def test_close_leaves_no_process() -> None:
    before = set(_judges())
    with Sandbox(workers=2) as sandbox:
        sandbox.map([GOOD] * 8)
        family = set().union(*(_below(p) for p in set(_judges()) - before))
        assert len(family) >= 2
    assert _gone(family)


def test_closed_sandbox_refuses_and_cancels() -> None:
    sandbox = Sandbox(workers=1)
    futures = [sandbox.submit(increment("    import time; time.sleep(0.2)\n    return x + 1\n")) for _ in range(6)]
    futures[0].result()
    sandbox.close()
    assert futures[-1].cancelled()
    assert all(f.done() for f in futures)
    with pytest.raises(SandboxError, match="closed"):
        sandbox.check(GOOD)


def test_killed_judge_is_replaced_and_the_job_repeated() -> None:
    before = set(_judges())
    with Sandbox(workers=1) as sandbox:
        sandbox.check(GOOD)
        future = sandbox.submit(increment("    import time; time.sleep(0.3)\n    return x + 1\n"))
        [judge] = set(_judges()) - before
        time.sleep(0.1)
        os.kill(judge, signal.SIGKILL)
        assert future.result().kind == "pass"
        assert sandbox.started == 2


def test_killed_framework_leaves_no_process(tmp_path: Path) -> None:
    """kill -9 of the program that uses the sandbox, in the middle of an endless check."""
    code = f"""
        import os, time
        from s0.sandbox import PythonCheck, Sandbox
        sandbox = Sandbox(workers=1, timeout_s=600)
        sandbox.tier
        sandbox.submit(PythonCheck({PROMPT!r}, "    while True: pass\\n", {TEST!r}, "f"))
        time.sleep(0.3)
        print("ready", flush=True)
        time.sleep(600)
    """
    root = str(Path(selftest.__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root}
    user = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, env=env)
    assert user.stdout is not None
    assert user.stdout.readline() == b"ready\n"
    family = _below(user.pid)
    assert len(family) >= 4
    user.kill()
    user.wait()
    user.stdout.close()
    assert _gone(family)


def test_selftest_raises_where_isolation_is_claimed_but_absent(reduced: Sandbox) -> None:
    """An unconfined worker that calls itself isolated is found out by every single probe."""
    assert not any("denied" in reduced.check(p).detail for p in [GOOD])
    for attempt in selftest._ATTEMPTS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(selftest, "_ATTEMPTS", {attempt: selftest._ATTEMPTS[attempt]})
            with pytest.raises(SandboxError, match="self-test failed"):
                selftest.run(reduced.check, "isolated(pretended)")


@pytest.mark.parametrize("kind", ["pass", "wrong", "error", "timeout", "infra"])
def test_selftest_raises_for_a_judge_that_always_says_the_same(kind: str) -> None:
    answer: Callable[[PythonCheck], Verdict] = lambda check: Verdict(kind)  # type: ignore[arg-type]  # noqa: E731
    with pytest.raises(SandboxError, match="self-test failed"):
        selftest.run(answer, "isolated(x)")


def test_failed_selftest_raises_and_never_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_GOOD", selftest._WRONG)
    with Sandbox(workers=1) as sandbox:
        with pytest.raises(SandboxError, match="self-test failed"):
            sandbox.check(GOOD)
        with pytest.raises(SandboxError, match="self-test failed"):
            sandbox.tier  # noqa: B018
        assert sandbox.started == 0


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"test": "def check(candidate): pass\n"}, "never calls the candidate"),
        ({"test": "def chekc(candidate): pass\n"}, "defines no check"),
        ({"test": "def check(candidate:\n"}, "does not load"),
        ({"test": "raise ValueError('broken')\n"}, "broken"),
        ({"prompt": "import missing_module\ndef f(x):\n    'x'\n"}, "does not run by itself"),
    ],
)
def test_a_broken_data_set_raises(change: dict[str, str], part: str) -> None:
    """Neither the model's fault nor its merit."""
    fields = {"prompt": PROMPT, "completion": "    return x + 1\n", "test": TEST, "entry_point": "f", **change}
    with Sandbox(workers=1) as sandbox, pytest.raises(SandboxError, match=part):
        sandbox.check(PythonCheck(**fields))


@pytest.mark.parametrize(
    ("change", "kind", "part"),
    [
        ({"prompt": None}, "data", "prompt: must be text"),
        ({"test": b"x"}, "data", "test: must be text"),
        ({"test": "#" * (33 << 20)}, "data", "at most 32 Mi"),
        ({"entry_point": "f(1)"}, "data", "must be the name"),
        ({"entry_point": 3}, "data", "entry_point: must be text"),
        ({"completion": None}, "error", "not text"),
        ({"completion": "#" * (33 << 20)}, "error", "at most 32 Mi"),
        ({"completion": "\ud800"}, "error", ""),
        ({"completion": "\0"}, "error", ""),
    ],
)
def test_malformed_checks_cost_one_line_and_no_worker(auto: Sandbox, change: dict, kind: str, part: str) -> None:
    fields = {"prompt": PROMPT, "completion": "    return x + 1\n", "test": TEST, "entry_point": "f", **change}
    assert auto.check(GOOD).passed
    started = auto.started
    [verdict] = auto.settle([PythonCheck(**fields)])
    assert verdict.kind == kind
    assert part in verdict.detail
    assert "\n" not in verdict.detail
    assert auto.check(GOOD).passed
    assert auto.started == started


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"workers": 0}, "workers=0"),
        ({"timeout_s": 0}, "timeout_s=0"),
        ({"timeout_s": float("nan")}, "timeout_s=nan"),
        ({"memory_mb": 1}, "memory_mb=1"),
        ({"tier": "none"}, "tier='none'"),
        ({"tier": "reduced"}, "allow_unisolated"),
    ],
)
def test_impossible_arguments(arguments: dict, part: str) -> None:
    with pytest.raises(SandboxError) as caught:
        Sandbox(**arguments)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refuses_where_it_cannot_isolate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for bubblewrap alone on a machine without it stands for every machine that lacks the mechanisms."""
    monkeypatch.setattr(worker.shutil, "which", lambda name: None)
    with Sandbox(workers=1, tier="bwrap") as sandbox, pytest.raises(SandboxError, match="allow_unisolated=true"):
        sandbox.check(GOOD)
    with Sandbox(workers=1, tier="bwrap", allow_unisolated=True) as sandbox:
        assert sandbox.check(GOOD).tier == "reduced(rlimits+seccomp)"


def test_broken_bubblewrap_falls_back_to_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers where the program exists but may not make namespaces."""
    monkeypatch.setattr(worker.shutil, "which", lambda name: "/bin/false")
    with Sandbox(workers=1) as sandbox:
        assert sandbox.check(GOOD).tier == "isolated(rlimits+seccomp+landlock)"


def test_reduced_is_named_in_every_verdict(reduced: Sandbox) -> None:
    assert {v.tier for v in reduced.map([GOOD, increment("    return x\n"), increment("    1/0\n")])} == {
        "reduced(rlimits)"
    }


def test_verification_overlaps(auto: Sandbox) -> None:
    """submit returns before the check is done."""
    future = auto.submit(increment("    import time; time.sleep(0.3)\n    return x + 1\n"))
    assert not future.done()
    assert future.result().passed


def test_imports_neither_torch_nor_its_friends() -> None:
    heavy = "{'torch', 'numpy', 'transformers', 'datasets'}"
    code = f"import sys, s0.sandbox; sys.exit(str({heavy} & set(sys.modules) or ''))"
    root = str(Path(selftest.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_impossible_time_limit_of_one_check(auto: Sandbox, limit: float) -> None:
    with pytest.raises(SandboxError, match="timeout_s"):
        auto.submit(increment("    return x + 1\n", timeout_s=limit))


def test_forgotten_close_neither_hangs_nor_leaves_processes(tmp_path: Path) -> None:
    """An interpreter that ends without closing its sandbox, a check still running."""
    code = f"""
        import os, time
        from s0.sandbox import PythonCheck, Sandbox
        sandbox = Sandbox(workers=2, timeout_s=600)
        sandbox.tier
        sandbox.submit(PythonCheck({PROMPT!r}, "    while True: pass\\n", {TEST!r}, "f"))
        time.sleep(0.3)
        from sandbox_help import descendants
        print(*descendants(os.getpid()))
    """
    path = os.pathsep.join([str(Path(selftest.__file__).parents[2]), str(Path(__file__).parent)])
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=env, check=True
    )
    family = {int(p) for p in done.stdout.split()}
    assert len(family) >= 3
    assert _gone(family)


def test_forked_child_is_refused_instead_of_waiting_for_ever(auto: Sandbox) -> None:
    assert auto.check(GOOD).passed
    pid = os.fork()
    if pid == 0:
        try:
            auto.check(GOOD)
        except SandboxError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
