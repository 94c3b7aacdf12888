"""Time-limited comparison of mathematical answers in worker processes that can be killed.

math-verify's own limit is a signal handler: it works in the main thread only and cannot interrupt native code. Here the limit
is a wall clock outside the process, so it holds in any thread and for any answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from s0.errors import S0Error

WORKER = Path(__file__).with_name("math_worker.py")
#: seconds a worker may take to import and warm up
START_TIMEOUT_S = 120.0
#: requests per worker process: a computer algebra system caches without bound
REQUESTS_PER_PROCESS = 500


@dataclass(frozen=True)
class Comparison:
    """`kind` is "pass" (equal), "wrong" (different), or why there is no answer: "timeout", "memory", "error"."""

    kind: Literal["pass", "wrong", "timeout", "memory", "error"]
    detail: str = ""
    seconds: float = 0.0


class MathPool:
    """Compare (gold, answer) pairs on `workers` processes, each pair within `timeout_s` seconds of wall clock."""

    def __init__(self, timeout_s: float, workers: int | None = None) -> None:
        self.timeout_s = timeout_s
        self.workers = workers or max(1, min(8, os.cpu_count() or 1))
        self._idle: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _close_all, self._idle)

    def map(self, pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
        """Comparisons in the order of `pairs`; equal pairs are compared once. Raises S0Error when no worker can start."""
        distinct = list(dict.fromkeys(pairs))
        jobs: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        for pair in distinct:
            jobs.put(pair)
        results: dict[tuple[str, str], Comparison] = {}
        failures: list[Exception] = []
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
        return [results[pair] for pair in pairs]

    def close(self) -> None:
        self._finalizer()

    def _serve(
        self, jobs: queue.SimpleQueue[tuple[str, str]], results: dict[Any, Comparison], failures: list[Exception]
    ) -> None:
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker()
        try:
            while not failures:
                try:
                    pair = jobs.get_nowait()
                except queue.Empty:
                    break
                gold, answer = pair
                results[pair] = worker.compare(gold, answer, self.timeout_s)
        except Exception as error:
            failures.append(error)
            worker.stop()
        else:
            self._idle.append(worker)


def _close_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().stop()


class _Worker:
    """One process, started on demand and replaced after a kill, a crash or REQUESTS_PER_PROCESS requests."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._served = 0

    def compare(self, gold: str, answer: str, limit: float) -> Comparison:
        """One comparison. A process that ends without a reply is replaced once: it may have been killed from outside."""
        result = self._ask(gold, answer, limit)
        if result is None:
            result = self._ask(gold, answer, limit)
        return result or Comparison("error", "the comparison ended its process twice")

    def _ask(self, gold: str, answer: str, limit: float) -> Comparison | None:
        process = self._running()
        assert process.stdin is not None
        start = time.monotonic()
        try:
            process.stdin.write((json.dumps({"gold": gold, "answer": answer, "limit": limit}) + "\n").encode())
            process.stdin.flush()
            line = self._line(start + limit)
        except BrokenPipeError:
            line = b""
        seconds = time.monotonic() - start
        self._served += 1
        if not line:
            self.stop()
            return Comparison("timeout", f"not compared within {limit:g} s", seconds) if line is None else None
        reply = json.loads(line)
        if "equal" not in reply:
            return Comparison(reply["kind"], reply["error"], seconds)
        return Comparison("pass" if reply["equal"] else "wrong", "", seconds)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):  # unsent bytes for a process that is gone
                        stream.close()
        self._process, self._buffer, self._served = None, b"", 0

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and (self._served >= REQUESTS_PER_PROCESS or self._process.poll() is not None):
            self.stop()
        if self._process is None:
            # A clean environment: no tokens, one thread, and the same string hashing (sympy orders by it) in every process.
            env = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=env,
                start_new_session=True,  # Ctrl-C goes to the experiment, which then stops its workers
            )
            if not self._line(time.monotonic() + START_TIMEOUT_S):
                self.stop()
                raise S0Error(
                    f"the math-verify worker did not start; try `{sys.executable} -c 'import math_verify'` and install "
                    "the package math-verify"
                )
        return self._process

    def _line(self, deadline: float) -> bytes | None:
        """The next line; b"" when the process has ended, None at the deadline."""
        assert self._process is not None
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                return None
            chunk = os.read(fd, 65536)
            if not chunk:
                return b""
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
