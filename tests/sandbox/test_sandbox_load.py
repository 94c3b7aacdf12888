"""Verdicts do not depend on what else the machine is doing, and limits hold for what the address space does not count."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sandbox_help import GOOD, attack, descendants, increment

from s0.sandbox import Sandbox
from s0.sandbox.watch import MAX_THREADS, Watch

LIMIT = 0.3
_BURN = "    import time\n    while time.process_time() < {s}: pass\n    return x + 1\n"


def _near_the_limit(n: int) -> list[tuple[str, str]]:
    """(completion, kind): some compute or sleep a little less than the limit, some a little more."""
    little, much = _BURN.format(s=0.4 * LIMIT), _BURN.format(s=0.75 * LIMIT)
    asleep = "    import time\n    if x == 1: time.sleep({s})\n    return x + 1\n"
    cases = [
        (little, "pass"),
        (much, "pass"),
        (_BURN.format(s=1.3 * LIMIT), "timeout"),
        (asleep.format(s=0.7 * LIMIT), "pass"),
        (asleep.format(s=1.4 * LIMIT), "timeout"),
    ]
    return (cases * n)[:n]


@pytest.mark.slow
def test_same_verdicts_idle_and_with_busy_neighbours() -> None:
    cases = _near_the_limit(40)
    checks = [increment(completion, LIMIT) for completion, _ in cases]
    with Sandbox(workers=2) as sandbox:
        sandbox.check(GOOD)
        idle = [v.kind for v in sandbox.map(checks)]
        neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(8)]
        try:
            busy = [v.kind for v in sandbox.map(checks)]
        finally:
            for one in neighbours:
                one.kill()
                one.wait()
    assert idle == [kind for _, kind in cases]
    assert busy == idle


def test_a_starved_process_uses_none_of_its_time() -> None:
    """One that waits for a processor, as far as the system says so; one that sleeps uses as much as passes."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * (os.cpu_count() or 1))]
    asleep = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        time.sleep(0.3)
        starved, sleeping = Watch([busy[0].pid]), Watch([asleep.pid])
        for _ in range(20):
            time.sleep(0.05)
            starved.sample()
            sleeping.sample()
        assert starved.used < 0.6 * starved.wall
        assert starved.disturbed
        assert sleeping.used > 0.9 * sleeping.wall
    finally:
        for one in [*busy, asleep]:
            one.kill()
            one.wait()


THREADS = """    import threading, time
    threading.stack_size(1 << 16)
    for _ in range(10000): threading.Thread(target=time.sleep, args=(99,)).start()
    return x + 1
"""


def test_thousands_of_threads(sandbox: Sandbox) -> None:
    verdict = attack(sandbox, THREADS, timeout_s=20)
    assert verdict.kind == "error"
    assert str(MAX_THREADS) in verdict.detail


def test_socket_buffers_stay_small(sandbox: Sandbox) -> None:
    """Memory of the kernel, which the address-space limit does not count: 64 pairs at the default size at most."""
    grab = """    import socket
    held = 0
    pairs = []
    try:
        while True:
            a, b = socket.socketpair()
            pairs.append((a, b))
            for s in (a, b):
                s.setblocking(False)
                for option in (7, 8, 32, 33):
                    try: s.setsockopt(socket.SOL_SOCKET, option, 1 << 26)
                    except OSError: pass
                try:
                    while True: held += s.send(b'x' * 65536)
                except BlockingIOError: pass
    except OSError: pass
    return x + 1 if held > 40 << 20 else held
"""
    verdict = attack(sandbox, grab, timeout_s=20)
    assert verdict.kind == "wrong", verdict


def test_links_are_not_read(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/somewhere/secret")
    tmp_path.chmod(0o777)
    code = f"""    import os
    try: return x + 1 if os.readlink({str(tmp_path / "link")!r}) else 0
    except OSError: return None
"""
    assert attack(sandbox, code).kind == "wrong"


@pytest.mark.parametrize("tier", ["landlock", "bwrap", "reduced"])
def test_candidate_dies_with_a_killed_zygote(tier: str) -> None:
    if tier == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    others = descendants(os.getpid())
    with Sandbox(workers=1, tier=tier, allow_unisolated=tier == "reduced") as sandbox:  # type: ignore[arg-type]
        assert sandbox.check(GOOD).passed
        before = descendants(os.getpid()) - others
        future = sandbox.submit(increment("    while True: pass\n", timeout_s=2))
        time.sleep(0.5)
        started = descendants(os.getpid()) - before - others
        zygotes = [p for p in before if b"candidate" in Path(f"/proc/{p}/cmdline").read_bytes().split(b"\0")]
        assert started
        assert zygotes
        for pid in zygotes:
            with contextlib.suppress(ProcessLookupError):  # inside a namespace they die together
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while any(map(_alive, started)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(_alive, started))
        assert future.result().kind == "timeout", "tried again on a new worker"


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
