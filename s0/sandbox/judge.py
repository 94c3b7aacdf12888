"""One worker: a trusted, warm process that runs checks and queries one after the other.

Per request it asks the zygote (`candidate.py`) for a confined child with fresh pipes and forks a child of its own that
talks to it (`trial.py`). This process keeps the time, ends both, and answers the framework.
"""

from __future__ import annotations

import copy  # noqa: F401  (tests import it; warm in the forked child)
import json
import math
import os
import random  # noqa: F401
import select
import signal
import socket
import stat
import struct
import sys
import time
import traceback
from typing import Any

from s0.sandbox import bwrap, conversation, isolate, packages, paths, seccomp, wire
from s0.sandbox.watch import MAX_THREADS, WALL_EXTRA_S, WALL_FACTOR, Watch

#: how long, in seconds, a confined child or the zygote may take to come up before that is an infrastructure failure
STARTUP_S = 30.0
_MODULES = tuple(
    f"{m}.py"
    for m in "_boot candidate codec failures isolate operators packages seccomp serve sql values wire".split()  # noqa: SIM905
)


#: address space, in bytes, that loaded packages take before the candidate starts
_PACKAGES = 512 << 20


class Infra(Exception):
    """The machinery failed; never a statement about the candidate."""


class _Stopped(Exception):
    """(kind, detail): the judge ended the check."""


class BadData(Exception):
    """The data set is at fault; trying again is no use."""


def main(argv: list[str]) -> None:
    isolate.die_with_parent(int(argv[0]))
    requests, replies = os.dup(0), os.dup(1)
    os.set_inheritable(requests, False)
    os.set_inheritable(replies, False)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    if isolate.LINUX:
        isolate.adopt_orphans()
        isolate.hide_memory()
    judge = None
    while (payload := wire.read_frame(requests, 1 << 30)) is not None:
        body = b""
        try:
            request = json.loads(payload)
            if judge is None:
                judge = Judge(request)
                answer: dict[str, Any] = {"mechanisms": judge.mechanisms, "problems": judge.problems}
            else:
                answer, body = judge.run(request)
        except (Infra, BadData) as exc:
            if isinstance(exc, Infra):
                isolate.kill_descendants()  # this worker is done for; where nothing confines them, orphans could stay
            answer = {"kind": "infra" if isinstance(exc, Infra) else "data", "detail": str(exc)}
        except Exception:
            answer = {"kind": "infra", "detail": "bug in the judge: " + traceback.format_exc(limit=-3)}
        wire.write_frame(replies, json.dumps(answer).encode())
        wire.write_frame(replies, body)
    os._exit(0)


class Deadline:
    """Reads frames from a pipe until a point in time."""

    def __init__(self, fd: int):
        self.fd, self.buffer = fd, bytearray()
        self.poll = select.poll()
        self.poll.register(fd, select.POLLIN)

    def frame(self, deadline: float, limit: int = 1 << 30) -> bytes | None:
        """The next frame, None at end of file. Raises TimeoutError."""
        while True:
            if len(self.buffer) >= 4:
                size = int.from_bytes(self.buffer[:4], "big")
                if len(self.buffer) >= 4 + size:
                    frame = bytes(self.buffer[4 : 4 + size])
                    del self.buffer[: 4 + size]
                    return frame
            left = deadline - time.monotonic()
            if left <= 0 or not self.poll.poll(math.ceil(left * 1000)):
                raise TimeoutError
            part = os.read(self.fd, 1 << 20)
            if not part:
                return None
            self.buffer += part


class Judge:
    """`settings`: isolate (bool), landlock (bool), bwrap (path or None), memory (bytes)."""

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings
        self.problems: list[str] = []
        nothing = paths.Allowed([], [])
        self.allowed = paths.allowed(settings["candidate_packages"]) if settings["isolate"] else nothing
        self.mechanisms = self._start_in_namespaces(settings["bwrap"]) or self._start_zygote(None)
        same = settings["packages"] == settings["candidate_packages"] or not settings["isolate"]
        readable = self.allowed if same else paths.allowed(settings["packages"])
        try:
            packages.load(settings["packages"])
        except ImportError as exc:
            raise BadData(str(exc)) from None
        self.guard = conversation.Guard(
            seccomp.Filter(isolate.machine()) if "seccomp" in self.mechanisms else None,
            isolate.ruleset(*readable) if "landlock" in self.mechanisms else None,
        )

    def _start_in_namespaces(self, program: str | None) -> list[str]:
        if program is None:
            return []
        try:
            mechanisms = self._start_zygote(program)
        except Infra as exc:
            self.problems.append(f"bwrap: {exc}")
            return []
        return [*mechanisms[:2], "bwrap", *mechanisms[2:]]

    def _start_zygote(self, bwrap_path: str | None) -> list[str]:
        ours, theirs = socket.socketpair()
        theirs.set_inheritable(True)
        here = os.path.dirname(os.path.abspath(__file__))
        flags = ["-s", "-S", "-P", os.path.join(here, "_boot.py"), "candidate", str(theirs.fileno())]
        command = [sys.executable, *flags]
        if bwrap_path:
            command = bwrap.command(bwrap_path, self.allowed, [os.path.join(here, m) for m in _MODULES]) + command
        errors, writer = os.pipe()
        os.posix_spawn(command[0], command, dict(os.environ), file_actions=[(os.POSIX_SPAWN_DUP2, writer, 2)])
        os.close(writer)
        theirs.close()
        self.control = ours
        ours.settimeout(STARTUP_S)
        if isolate.LINUX:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # who wrote, as this process numbers it
        settings = {
            "isolate": self.settings["isolate"],
            "landlock": self.settings["landlock"],
            "readable": self.allowed.readable,
            "listable": self.allowed.listable,
            "packages": self.settings["candidate_packages"],
        }
        try:
            payload = json.dumps(settings).encode()
            ours.sendall(len(payload).to_bytes(4, "big") + payload)
            hello = self._answer()
        except (OSError, Infra):
            os.set_blocking(errors, False)
            try:
                text = os.read(errors, 2000).decode(errors="replace").strip()
            except BlockingIOError:
                text = "no answer"
            raise Infra(f"the confined process did not start: {text.splitlines()[-1] if text else 'ended'}") from None
        finally:
            os.close(errors)
        self.problems += hello["problems"]
        return hello["mechanisms"]

    def _answer(self) -> dict[str, Any]:
        try:
            message, ancillary, _, _ = self.control.recvmsg(1 << 16, socket.CMSG_SPACE(12))
        except OSError as exc:
            raise Infra(f"the zygote does not answer ({exc})") from None
        if not message:
            raise Infra("the zygote is gone")
        answer = json.loads(message)
        for _level, kind, data in ancillary:
            if isolate.LINUX and kind == socket.SCM_CREDENTIALS:
                answer["pid"] = struct.unpack_from("i", data)[0]
        return answer

    def _end_candidate(self, settle: bool) -> int:
        self.control.sendall(b"settle" if settle else b"reap")
        return self._answer()["status"]

    def run(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """The answer and, for a query, its rows as the child encoded them."""
        data = _open_database(request["db_path"]) if "sql" in request else None
        extra = 2 * os.fstat(data).st_size if data is not None else 0
        down_r, down_w = os.pipe()
        up_r, up_w = os.pipe()
        result_r, result_w = os.pipe()
        order = {
            "memory": self.settings["memory"] + extra + (_PACKAGES if self.settings["candidate_packages"] else 0),
            "cpu": conversation.cpu_limit(request["timeout_s"]),
        }
        try:
            fds = [down_r, up_w] + ([data] if data is not None else [])
            socket.send_fds(self.control, [json.dumps(order).encode()], fds)
            candidate = self._answer()["pid"]
            me = os.getpid()
            pid = os.fork()
            if pid == 0:
                conversation.hold(self.guard, me, request, up_r, down_w, result_w)
        except OSError as exc:
            raise Infra(f"cannot start a check: {exc}") from None
        finally:
            for fd in (down_r, down_w, up_r, up_w, result_w, *([data] if data is not None else [])):
                os.close(fd)
        try:
            return self._await(request, pid, candidate, Deadline(result_r))
        finally:
            os.close(result_r)

    def _await(
        self, request: dict[str, Any], pid: int, candidate: int, results: Deadline
    ) -> tuple[dict[str, Any], bytes]:
        """The outcome of the check that `pid` (the test) and `candidate` hold; both are ended. Where the time limit was
        met while other work kept them waiting, "confirm" asks for a repetition alone."""
        body, outcome = b"", {}
        watch: Watch | None = None
        limit = request["timeout_s"]
        try:
            hello = results.frame(time.monotonic() + STARTUP_S)
            if hello is None:
                raise Infra("the confined child ended before it was ready")
            watch = Watch([pid, candidate])
            answer = self._watched(results, watch, limit, request.get("alone", False))
            if answer is not None:
                outcome = json.loads(answer)
                if outcome["kind"] == "rows":
                    body = results.frame(time.monotonic() + STARTUP_S) or b""
            if watch.wall > limit:
                watch.sample()
        except _Stopped as exc:
            outcome = {"kind": exc.args[0], "detail": exc.args[1]}
        except TimeoutError:
            raise Infra(f"the confined child was not ready after {STARTUP_S:g} s") from None
        finally:
            os.kill(pid, signal.SIGKILL)
            test_status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            status = self._end_candidate(settle=outcome.get("kind") == "died")
        if not outcome:
            outcome = {"kind": "error", "detail": f"the test itself ended with status {test_status}"}
        if outcome["kind"] == "died":
            outcome = _death(status, outcome["detail"])
        assert watch is not None
        if watch.used > limit and outcome["kind"] not in ("timeout", "infra"):
            if request.get("alone"):
                outcome, body = {"kind": "timeout", "detail": f"a result, but after more than {limit:g} s"}, b""
            else:
                outcome["confirm"] = True
        outcome["seconds"] = time.monotonic() - watch.begun
        return outcome, body

    @staticmethod
    def _watched(results: Deadline, watch: Watch, limit: float, alone: bool) -> bytes | None:
        """The test's report. Raises _Stopped when time or threads run out."""
        wall = WALL_FACTOR * limit + WALL_EXTRA_S
        # Neighbours that share caches and cores can double a program's CPU time, hardly more.
        while True:
            allowed = limit if alone or not watch.disturbed else 2 * limit
            try:
                return results.frame(time.monotonic() + watch.pause(allowed - watch.used))
            except TimeoutError:
                watch.sample()
            if watch.threads > MAX_THREADS:
                raise _Stopped("error", f"more than {MAX_THREADS} threads")
            if watch.used >= (limit if alone or not watch.disturbed else 2 * limit):
                raise _Stopped("timeout", f"no result after {limit:g} s")
            if watch.wall >= wall:
                got = f"{watch.used:.2g} s of computing in {watch.wall:.3g} s"
                raise _Stopped("infra", f"the machine is overloaded: a check got {got}")


def _death(status: int, when: str) -> dict[str, Any]:
    if status == -signal.SIGXCPU:
        return {"kind": "timeout", "detail": "CPU time used up"}
    if status == -signal.SIGKILL:
        return {"kind": "protocol", "detail": f"closed its pipes and {when}"}
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return {"kind": "error", "detail": f"the program {when} ({how})"}


def _open_database(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise BadData(f"database {path}: {exc.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BadData(f"database {path}: not a regular file")
    for suffix in ("-wal", "-journal"):
        if os.path.exists(path + suffix) and os.path.getsize(path + suffix):
            os.close(fd)
            raise BadData(f"database {path}: {suffix} file holds unmerged changes; open and close it once with sqlite3")
    return fd
