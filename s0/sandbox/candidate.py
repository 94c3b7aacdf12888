"""The untrusted side: a warm, empty process that forks one confined child per check.

The parent ("zygote") holds the standard library and nothing else: no tests, no secrets, no descriptors but its control
socket. Each child gets fresh pipes, confines itself, and only then sees the program. What a child sends are values; it
takes no part in deciding what they are worth.
"""

from __future__ import annotations

# The commonest imports of model-written programs, so that a forked child finds them warm.
import bisect  # noqa: F401
import collections  # noqa: F401
import contextlib
import copy  # noqa: F401
import dataclasses  # noqa: F401
import datetime  # noqa: F401
import fcntl
import functools  # noqa: F401
import gc
import hashlib  # noqa: F401
import heapq  # noqa: F401
import itertools  # noqa: F401
import json
import math  # noqa: F401
import os
import random  # noqa: F401
import re  # noqa: F401
import signal
import socket
import statistics  # noqa: F401
import string  # noqa: F401
import threading  # noqa: F401
import time
import types  # noqa: F401
import typing  # noqa: F401
from typing import Any

from s0.sandbox import isolate, packages, seccomp, serve, sql, wire

_READ_FD, _WRITE_FD, _DATA_FD = 3, 4, 5


def main(argv: list[str]) -> None:
    control = socket.socket(fileno=int(argv[0]))
    settings = json.loads(wire.read_frame(control.fileno()) or b"{}")
    Zygote(control, settings).serve()


class Zygote:
    """Serves `fork` and `reap` requests of the judge until it goes away."""

    def __init__(self, control: socket.socket, settings: dict[str, Any]):
        self.control = control
        self.filter: seccomp.Filter | None = None
        self.null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(self.null, fd)
        mechanisms, problems = ["rlimits"], []
        if isolate.LINUX:
            isolate.hide_memory()
            isolate.adopt_orphans()
        if settings["isolate"]:
            try:
                isolate.drop_privileges()
                self.filter = self._working_filter()
                mechanisms.append("seccomp")
            except (OSError, KeyError) as exc:
                problems.append(f"seccomp: {exc}")
            if settings["landlock"]:
                try:
                    rules = isolate.ruleset(settings["readable"], settings["listable"])
                    isolate.restrict(rules)
                    os.close(rules)
                    mechanisms.append("landlock")
                except OSError as exc:
                    problems.append(f"landlock: {exc}")
        packages.load(settings["packages"])
        gc.collect()
        gc.freeze()
        self._reply(mechanisms=mechanisms, problems=problems)

    @staticmethod
    def _working_filter() -> seccomp.Filter:
        """The filter of this machine, tried in a child. Raises KeyError (unknown machine) or OSError (no seccomp)."""
        made = seccomp.Filter(isolate.machine())
        pid = os.fork()
        if pid == 0:
            try:
                isolate.install_filter(made.for_pid(os.getpid()))
                os._exit(0)
            except OSError as exc:
                os._exit(exc.errno or 1)
        number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if number:
            raise OSError(abs(number), f"the filter cannot be installed ({os.strerror(abs(number))})")
        return made

    def _reply(self, **message: Any) -> None:
        self.control.sendall(json.dumps(message).encode())

    def serve(self) -> None:
        child = 0
        while True:
            message, fds, _, _ = socket.recv_fds(self.control, 4096, 8)
            if child and not message.startswith(b"{"):
                status = self._end(child, patience=0.2 if message == b"settle" else 0.0)
                child = 0
                if message:
                    self._reply(status=status)
            elif message:
                me = os.getpid()
                child = os.fork()
                if child == 0:
                    try:
                        self._become_candidate(me, json.loads(message), list(fds))
                    finally:
                        os._exit(70)
                for fd in fds:
                    os.close(fd)
            if not message:
                os._exit(0)

    def _end(self, child: int, patience: float) -> int:
        """Exit code of the child (negative: signal), which is killed if it still runs, with whatever it started.

        `patience` is how long, in seconds, a child that closed its pipes may take to finish dying by itself.
        """
        deadline = time.monotonic() + patience
        pid, status = os.waitpid(child, os.WNOHANG)
        while not pid and time.monotonic() < deadline:
            time.sleep(0.002)
            pid, status = os.waitpid(child, os.WNOHANG)
        if self.filter is None:
            # nobody may be left in its group
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGKILL)
        if not pid:
            os.kill(child, signal.SIGKILL)
            pid, status = os.waitpid(child, 0)
        if self.filter is None:
            isolate.kill_descendants()
        return os.waitstatus_to_exitcode(status)

    def _become_candidate(self, parent: int, order: dict[str, Any], fds: list[int]) -> None:
        isolate.die_with_parent(parent)
        self._reply(pid=os.getpid())  # sent from here, so that the judge learns the number it has outside a namespace
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in fds]
        os.setsid()
        for place, fd in enumerate(high, start=_READ_FD):
            os.dup2(fd, place)
        os.closerange(_READ_FD + len(high), 4096)
        isolate.set_limits(order["memory"], order["cpu"])
        if self.filter is not None:
            isolate.install_filter(self.filter.for_pid(os.getpid()))
        wire.write_frame(_WRITE_FD, b"ready")
        job = wire.loads(wire.read_frame(_READ_FD, 1 << 30) or b"")
        if "sql" in job:
            wire.write_frame(_WRITE_FD, sql.run(_DATA_FD, job))
        else:
            serve.answer_calls(job, _READ_FD, _WRITE_FD)
        os._exit(0)
