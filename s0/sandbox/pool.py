"""`Sandbox`: untrusted programs and queries in, verdicts and rows out, on all cores.

Each dispatcher thread owns one judge process (`worker.py`). Nothing starts before the first job; then threads start as
jobs queue up, each worker proving itself (`selftest.py`) before its first answer counts.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Literal, Self

from s0.data import Verdict
from s0.errors import SandboxError
from s0.sandbox import selftest, wire
from s0.sandbox.codec import Codec
from s0.sandbox.jobs import DataFault, PythonCheck, SqlQuery, SqlResult
from s0.sandbox.packages import locate
from s0.sandbox.worker import Settings, Worker, WorkerDied

Tier = Literal["auto", "landlock", "bwrap", "reduced"]
_TIERS = ("auto", "landlock", "bwrap", "reduced")
#: longest prompt, program or test, in characters
MAX_TEXT = 32 << 20
#: attempts per job before an infrastructure failure is raised
ATTEMPTS = 3


class Sandbox:
    """Runs model-written Python and SQL confined; use as a context manager, from any thread.

    Args:
        workers: judge processes at most; None for one per CPU.
        timeout_s: limit per job in seconds of computing or waiting (`watch.py`), where the job names none.
        memory_mb: address space of a candidate in MiB.
        allow_unisolated: accept a machine that cannot isolate; the tier then begins with "reduced".
        tier: "auto" uses all mechanisms that work; "landlock" and "bwrap" only that one beside seccomp; "reduced" none
            (needs `allow_unisolated`).
        judge: "separate" runs the tests in a process of their own; "inside" in the candidate's, as the official harness
            does: confined all the same, but a program can then forge its verdict. Named in the tier.
        packages: installed packages that tests may import; everything else outside the standard library is hidden.
        answer_packages: programs may import them, too.

    Raises SandboxError for impossible arguments; every other failure of the machinery is raised by the job's result.
    """

    def __init__(
        self,
        workers: int | None = None,
        timeout_s: float = 3.0,
        memory_mb: int = 1024,
        allow_unisolated: bool = False,
        tier: Tier = "auto",
        judge: Literal["separate", "inside"] = "separate",
        packages: Sequence[str] = (),
        answer_packages: bool = False,
    ):
        if workers is not None and workers < 1:
            raise SandboxError(f"sandbox.workers={workers}: must be at least 1, or null for one per CPU")
        if not 0 < timeout_s < math.inf:
            raise SandboxError(f"sandbox.timeout_s={timeout_s}: must be a positive number of seconds")
        if memory_mb < 128:
            raise SandboxError(f"sandbox.memory_mb={memory_mb}: must be at least 128 for the interpreter to start")
        if tier not in _TIERS:
            raise SandboxError(f"sandbox.tier={tier!r}: must be one of {', '.join(_TIERS)}")
        if tier == "reduced" and not allow_unisolated:
            raise SandboxError("sandbox.tier='reduced': runs code unconfined; set allow_unisolated=true to accept that")
        self.workers = workers or os.cpu_count() or 1
        self.timeout_s = timeout_s
        if judge not in ("separate", "inside"):
            raise SandboxError(f"sandbox.judge={judge!r}: must be separate or inside")
        try:
            located = locate(packages)
        except LookupError as exc:
            raise SandboxError(f"sandbox.packages={list(packages)}: {exc}; install it, or leave it out") from None
        self._settings = Settings(tier, memory_mb, allow_unisolated, judge, located, answer_packages)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._gate = _Gate()
        self._pid = os.getpid()
        self._unfinished = 0
        self._closed = False
        self._tier: str | None = None
        #: judge processes started so far; more than `workers` means that some had to be replaced
        self.started = 0

    # -- asking --------------------------------------------------------------------------------------------------------

    @property
    def tier(self) -> str:
        """What confines the code, such as "isolated(rlimits+seccomp+bwrap+landlock)"; starts a worker to find out."""
        if self._tier is None:
            self._enqueue(_Job(None)).result()
        assert self._tier is not None
        return self._tier

    def submit(self, check: PythonCheck) -> Future[Verdict]:
        """Queue a check. The future raises SandboxError when the machinery failed `ATTEMPTS` times."""
        return self._enqueue(_Job(check))

    def submit_query(self, query: SqlQuery) -> Future[SqlResult]:
        """Queue a query. The future raises SandboxError for a missing or damaged database."""
        return self._enqueue(_Job(query))

    def check(self, check: PythonCheck) -> Verdict:
        return self.submit(check).result()

    def query(self, query: SqlQuery) -> SqlResult:
        return self.submit_query(query).result()

    def map(self, checks: Iterable[PythonCheck]) -> list[Verdict]:
        """Verdicts in the order of `checks`, computed on all workers. Raises the first failure."""
        return [f.result() for f in [self.submit(c) for c in checks]]

    def settle(self, checks: Iterable[PythonCheck]) -> list[Verdict]:
        """As `map`, but a check that cannot be run costs no other its verdict: kind "data" where the data set's own code
        is at fault, "infra" where the machinery failed. Neither may be scored or stored."""
        verdicts = []
        for future in [self.submit(c) for c in checks]:
            try:
                verdicts.append(future.result())
            except DataFault as exc:
                verdicts.append(Verdict("data", str(exc)))
            except SandboxError as exc:
                verdicts.append(Verdict("infra", str(exc)))
        return verdicts

    def map_query(self, queries: Iterable[SqlQuery]) -> list[SqlResult]:
        """Results in the order of `queries`, computed on all workers."""
        return [f.result() for f in [self.submit_query(q) for q in queries]]

    # -- life ----------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish running jobs, cancel waiting ones, end all workers."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
        try:
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    job.future.cancel()
        except queue.Empty:
            pass
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            thread.join()

    def _enqueue(self, job: _Job) -> Future:
        limit = getattr(job.work, "timeout_s", None)
        if limit is not None and not 0 < limit < math.inf:
            raise SandboxError(f"sandbox: timeout_s={limit}: must be a positive number of seconds, or null")
        if os.getpid() != self._pid:
            raise SandboxError("sandbox: was made by another process; threads do not survive a fork, create one here")
        with self._lock:
            if self._closed:
                raise SandboxError("sandbox: is closed; create a new one")
            self._unfinished += 1
            job.future.add_done_callback(self._finished)
            if len(self._threads) < min(self.workers, self._unfinished):
                # daemon: an interpreter that exits without close() must not wait; the judges die with it
                thread = threading.Thread(target=self._dispatch, name="s0-sandbox", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._jobs.put(job)
        return job.future

    def _finished(self, _future: Future) -> None:
        with self._lock:
            self._unfinished -= 1

    # -- the dispatcher threads ----------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        worker: Worker | None = None
        try:
            while (job := self._jobs.get()) is not None:
                if not job.future.set_running_or_notify_cancel():
                    continue
                try:
                    worker, result = self._attempt(worker, job)
                    job.future.set_result(result)
                except BaseException as exc:
                    # whatever it is, the caller waits for it
                    job.future.set_exception(exc)
                    if worker is not None and not isinstance(exc, DataFault):
                        worker.close()
                        worker = None
        finally:
            if worker is not None:
                worker.close()

    def _attempt(self, worker: Worker | None, job: _Job) -> tuple[Worker, Any]:
        failure = ""
        for _ in range(ATTEMPTS):
            try:
                if worker is None:
                    worker = self._start()
                with self._gate.shared():
                    result = job.run(worker, self.timeout_s)
                if result is _DOUBTFUL:
                    with self._gate.alone():
                        result = job.run(worker, self.timeout_s, alone=True)
                if result is None or result.kind != "infra":
                    return worker, result
                failure = result.detail
            except WorkerDied as exc:
                failure = str(exc)
            if worker is not None:
                worker.close()
                worker = None
        raise SandboxError(f"sandbox: {job.name} failed {ATTEMPTS} times: {wire.one_line(failure, 600)}")

    def _start(self) -> Worker:
        worker = Worker(self._settings)
        try:
            selftest.run(lambda check: _Job(check).run(worker, 30.0), worker.tier)
        except BaseException:
            worker.close()
            raise
        with self._lock:
            self._tier = worker.tier
            self.started += 1
        return worker


_DOUBTFUL = object()


class _Gate:
    """Lets many run together, or one alone; who wants to be alone goes before those who come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting = 0

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._inside >= 0 and not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: self._inside == 0)
            self._waiting -= 1
            self._inside = -1
        try:
            yield
        finally:
            with self._changed:
                self._inside = 0
                self._changed.notify_all()


class _Job:
    """One piece of work and the future that waits for it; None only starts a worker."""

    def __init__(self, work: PythonCheck | SqlQuery | None):
        self.work = work
        self.name = "a query" if isinstance(work, SqlQuery) else "a check"
        self.future: Future = Future()

    def run(self, worker: Worker, timeout_s: float, alone: bool = False) -> Any:
        """The verdict or result; _DOUBTFUL where it took longer than its limit on a busy machine and ran beside others."""
        if self.work is None:
            return None
        message = dict(vars(self.work))
        if isinstance(self.work, PythonCheck):
            _check_data(self.work)
            if type(self.work.completion) is not str or len(self.work.completion) > MAX_TEXT:
                return Verdict(
                    "error", f"the program is not text of at most {MAX_TEXT >> 20} Mi characters", 0.0, worker.tier
                )
        if isinstance(self.work, SqlQuery):
            message["db_path"] = os.path.abspath(self.work.db_path)
        message["timeout_s"] = self.work.timeout_s or timeout_s
        answer, body = worker.request({**message, "alone": alone})
        if answer.get("confirm"):
            return _DOUBTFUL
        if answer["kind"] == "data":
            raise DataFault(f"sandbox: {self.name} cannot be run: {answer['detail']}")
        seconds = float(answer.get("seconds", 0.0))
        if isinstance(self.work, PythonCheck):
            return Verdict(answer["kind"], answer["detail"], seconds, worker.tier)
        if answer["kind"] != "rows":
            return SqlResult(answer["kind"], 0, [], answer["detail"], seconds, worker.tier)
        return _sql_result(body, self.work.db_path, seconds, worker.tier)


def _check_data(check: PythonCheck) -> None:
    """Raises DataFault for fields no program could make right."""
    for name in ("prompt", "test", "entry_point"):
        value = getattr(check, name)
        if type(value) is not str or len(value) > MAX_TEXT:
            raise DataFault(f"sandbox: {name}: must be text of at most {MAX_TEXT >> 20} Mi characters")
    if not check.entry_point.isidentifier():
        shown = wire.one_line(check.entry_point, 60)
        raise DataFault(f"sandbox: entry_point={shown!r}: must be the name of a function or class")


def _sql_result(body: bytes, db_path: str, seconds: float, tier: str) -> SqlResult:
    """Rebuild a query's result from what the confined process sent, trusting none of it."""
    try:
        answer = wire.loads(body)
        kind, columns = answer["kind"], answer["columns"]
        rows = [tuple(row) for row in Codec().unpack(answer["rows"])]
        if kind == "data":
            raise SandboxError(f"sandbox: database {db_path}: {wire.one_line(answer['detail'])}")
        if kind not in ("ok", "error", "timeout", "memory") or type(columns) is not int:
            raise wire.WireError(f"unknown kind {json.dumps(kind)[:40]}")
        if any(len(row) != columns or any(type(v) not in _SQL_TYPES for v in row) for row in rows):
            raise wire.WireError("a row has a wrong shape or type")
        return SqlResult(kind, columns, rows, wire.one_line(answer["detail"]), seconds, tier)
    except (wire.WireError, TypeError, KeyError) as exc:
        return SqlResult("protocol", 0, [], wire.one_line(f"{type(exc).__name__}: {exc}"), seconds, tier)


_SQL_TYPES = (int, float, str, bytes, type(None))
