"""Work on model-written text in processes with a CPU limit and a memory limit, which can be ended from outside.

A parser or a computer algebra system can be made to loop for ever, to fill the memory or to crash by what it is given.
Here that costs a process that holds nothing. The limit counts CPU time, so a verdict does not depend on what else runs
on the machine; the wall clock only ends what the machine never gets to, and that is an error, never a verdict.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from s0.errors import S0Error

LOOP = Path(__file__).with_name("limited_worker.py")
#: seconds a process may take to import and warm up
START_TIMEOUT_S = 120.0
#: wall-clock seconds allowed per CPU second of a request, and on top of that
WALL_FACTOR, WALL_EXTRA_S = 20.0, 30.0
#: requests per process: a computer algebra system caches without bound
REQUESTS_PER_PROCESS = 500


@dataclass(frozen=True)
class Handler:
    """What the processes run: the file with `handle`, their address space in bytes, and what to install when none starts."""

    path: Path
    memory_bytes: int
    flags: tuple[str, ...] = ("-P",)
    hint: str = "check that this Python can start a process"


@dataclass(frozen=True)
class Reply:
    """`value` where `kind` is "ok"; else why there is none, with one line of `detail`."""

    kind: Literal["ok", "timeout", "memory", "error"]
    value: Any = None
    detail: str = ""
    seconds: float = 0.0


class LimitedPool:
    """Answers requests on at most `workers` processes, each request within `limit_s` seconds of CPU time."""

    def __init__(self, handler: Handler, limit_s: float, workers: int | None = None) -> None:
        self.handler, self.limit_s = handler, limit_s
        self.workers = workers or max(1, min(8, os.cpu_count() or 1))
        self._idle: list[Worker] = []
        self._finalizer = weakref.finalize(self, _close_all, self._idle)

    def map(self, requests: Sequence[Mapping[str, Any]]) -> list[Reply]:
        """Replies in the order of `requests`; equal requests are answered once. Raises S0Error when no process can start
        or the machine is too busy to answer."""
        texts = [json.dumps({**request, "limit": self.limit_s}) for request in requests]
        jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
        distinct = dict.fromkeys(texts)
        for text in distinct:
            jobs.put(text)
        results: dict[str, Reply] = {}
        failures: list[Exception] = []
        if len(distinct) == 1:
            self._serve(jobs, results, failures)
        else:
            threads = [
                threading.Thread(target=self._serve, args=(jobs, results, failures), daemon=True)
                for _ in range(min(self.workers, len(distinct)))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]
        return [results[text] for text in texts]

    def close(self) -> None:
        _close_all(self._idle)

    def _serve(self, jobs: queue.SimpleQueue[str], results: dict[str, Reply], failures: list[Exception]) -> None:
        worker = self._worker()
        try:
            while not failures:
                try:
                    text = jobs.get_nowait()
                except queue.Empty:
                    break
                results[text] = worker.ask(text, self.limit_s)
        except Exception as error:
            failures.append(error)
            worker.stop()
        else:
            self._idle.append(worker)

    def _worker(self) -> Worker:
        while True:
            try:
                worker = self._idle.pop()
            except IndexError:
                return Worker(self.handler)
            if worker.owner == os.getpid():  # a forked process must not talk into its parent's pipes
                return worker


def _close_all(workers: list[Worker]) -> None:
    while workers:
        worker = workers.pop()
        if worker.owner == os.getpid():
            worker.stop()


class Worker:
    """One process, started on demand and replaced after it was ended, crashed or served REQUESTS_PER_PROCESS requests."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.owner = os.getpid()
        self.process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._served = 0

    def ask(self, text: str, limit: float) -> Reply:
        """The reply to one line of JSON. A process that ends without one is replaced once: it may have been killed from
        outside. Raises S0Error."""
        return self._ask(text, limit) or self._ask(text, limit) or Reply("error", None, "ended its process twice")

    def _ask(self, text: str, limit: float) -> Reply | None:
        process = self._running()
        assert process.stdin is not None
        start = time.monotonic()
        wall = WALL_FACTOR * limit + WALL_EXTRA_S
        try:
            process.stdin.write((text + "\n").encode())
            process.stdin.flush()
            line = self._line(start + wall)
        except BrokenPipeError:
            line = b""
        seconds = time.monotonic() - start
        self._served += 1
        if line is None:
            self.stop()
            raise S0Error(
                f"{self.handler.path.stem}: no answer after {wall:g} s, of which it had less than {limit:g} s of CPU time; "
                "nothing is scored: run again when the machine is less busy"
            )
        if not line:
            status = process.wait()
            self.stop()
            return Reply("timeout", None, f"not done in {limit:g} s", seconds) if status == -signal.SIGPROF else None
        reply = json.loads(line)
        if "value" not in reply:
            return Reply(reply["kind"], None, reply["error"], seconds)
        return Reply("ok", reply["value"], "", seconds)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):  # unsent bytes for a process that is gone
                        stream.close()
        self.process, self._buffer, self._served = None, b"", 0

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is not None and (self._served >= REQUESTS_PER_PROCESS or self.process.poll() is not None):
            self.stop()
        if self.process is None:
            # A clean environment: no tokens, one thread, and the same string hashing (sympy orders by it) in every process.
            env = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    *self.handler.flags,
                    str(LOOP),
                    str(self.handler.path),
                    str(self.handler.memory_bytes),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=env,
                start_new_session=True,  # Ctrl-C goes to the experiment, which then stops its workers
            )
            if not self._line(time.monotonic() + START_TIMEOUT_S):
                self.stop()
                raise S0Error(f"{self.handler.path.stem}: its process did not start; {self.handler.hint}")
        return self.process

    def _line(self, deadline: float) -> bytes | None:
        """The next line; b"" when the process has ended, None at the deadline."""
        assert self.process is not None
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        chunks = [self._buffer]
        while b"\n" not in chunks[-1]:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                return None
            chunk = os.read(fd, 65536)
            if not chunk:
                return b""
            chunks.append(chunk)
        line, _, self._buffer = b"".join(chunks).partition(b"\n")
        return line
