"""The framework's handle on one judge process: start it, learn its isolation tier, ask it, end it."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from s0.errors import SandboxError
from s0.sandbox.watch import WALL_EXTRA_S, WALL_FACTOR

#: beyond a request's own limit: starting a child (judge.STARTUP_S) and ending one that holds much memory
_GRACE_S = 45.0
_ENVIRONMENT = {
    # The same program must get the same verdict again: sets of strings keep their order.
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    # Thread arenas reserve address space, which the limit counts.
    "MALLOC_ARENA_MAX": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "HOME": "/",
    "PATH": "/nonexistent",
}


class WorkerDied(Exception):
    """The judge process ended, hung or broke the protocol; a new one may do better."""


@dataclass(frozen=True)
class Settings:
    """`tier`: "auto" (all that works), "landlock" (no bubblewrap), "bwrap" (no Landlock), "reduced" (rlimits only)."""

    tier: str
    memory_mb: int
    allow_unisolated: bool
    #: "separate": tests and candidate in processes of their own; "inside": the tests run in the candidate's
    judge: str = "separate"
    #: name -> files, see packages.locate
    packages: dict[str, list[str]] = field(default_factory=dict)
    answer_packages: bool = False

    def to_judge(self) -> dict[str, Any]:
        isolate = self.tier != "reduced"
        use_bwrap = self.tier in ("auto", "bwrap") and sys.platform == "linux"
        return {
            "isolate": isolate and sys.platform == "linux",
            "landlock": isolate and self.tier != "bwrap",
            "bwrap": shutil.which("bwrap") if use_bwrap else None,
            "memory": self.memory_mb << 20,
            "packages": self.packages,
            "candidate_packages": self.packages if self.answer_packages or self.judge == "inside" else {},
        }


def tier_name(mechanisms: list[str]) -> str:
    """ "isolated(...)" when files, network, processes and memory are all confined, else "reduced(...)"."""
    enough = "seccomp" in mechanisms and ("landlock" in mechanisms or "bwrap" in mechanisms)
    return f"{'isolated' if enough else 'reduced'}({'+'.join(mechanisms)})"


class Worker:
    """Must be created and used by one thread that outlives it: the judge dies with the thread that started it."""

    def __init__(self, settings: Settings):
        if not hasattr(os, "fork"):
            raise SandboxError(
                f"sandbox: {sys.platform} cannot fork worker processes; run on Linux (WSL or a container will do)"
            )
        python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
        boot = os.path.join(os.path.dirname(os.path.realpath(__file__)), "_boot.py")
        self.process = subprocess.Popen(
            # -P -s with a clean environment is what -I means, except that PYTHONHASHSEED is heard
            [python, "-s", "-S", "-P", boot, "judge", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
        self.memory = settings.memory_mb << 20
        try:
            hello, _ = self._exchange(settings.to_judge(), _GRACE_S)
        except WorkerDied as exc:
            self.close()
            raise SandboxError(f"sandbox: the worker process {python} does not start ({exc})") from None
        if "mechanisms" not in hello:
            self.close()
            raise SandboxError(f"sandbox: the worker process does not start ({hello.get('detail')})")
        self.inside = settings.judge == "inside"
        self.tier = tier_name(hello["mechanisms"]) + (", judged inside" if self.inside else "")
        if self.tier.startswith("reduced") and not settings.allow_unisolated:
            self.close()
            why = "; ".join(hello["problems"]) or f"{sys.platform} offers no isolation this sandbox can use"
            raise SandboxError(
                f"sandbox: cannot isolate untrusted code on this machine ({why}); use Linux 5.13+ with Landlock or install "
                "bubblewrap, or accept the risk with allow_unisolated=true"
            )

    def request(self, message: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """The judge's answer and its body (a query's rows). Raises WorkerDied."""
        return self._exchange(
            {**message, "memory": self.memory, "inside": self.inside},
            WALL_FACTOR * message["timeout_s"] + WALL_EXTRA_S + _GRACE_S,
        )

    def _exchange(self, message: dict[str, Any], patience: float) -> tuple[dict[str, Any], bytes]:
        payload = json.dumps(message).encode()
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(len(payload).to_bytes(4, "big") + payload)
            self.process.stdin.flush()
        except OSError as exc:
            raise WorkerDied(f"the judge is gone: {exc}") from None
        deadline = time.monotonic() + patience
        head = self._frame(deadline)
        return json.loads(head), self._frame(deadline)

    def _frame(self, deadline: float) -> bytes:
        return self._read(int.from_bytes(self._read(4, deadline), "big"), deadline)

    def _read(self, size: int, deadline: float) -> bytes:
        assert self.process.stdout is not None
        fd, parts = self.process.stdout.fileno(), []
        while size:
            ready = select.poll()
            ready.register(fd, select.POLLIN)
            if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise WorkerDied("the judge does not answer")
            part = os.read(fd, min(size, 1 << 20))
            if not part:
                raise WorkerDied(f"the judge ended with status {self.process.wait()}")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Kill the judge; its children die with it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # unsent bytes of a request nobody will answer
