"""The child the judge forks per request: it talks to the candidate and reports to the judge, confined like the candidate.

The data set's test is trusted with the verdict, not with the machine: it runs here under the same filter and file rules.
"""

from __future__ import annotations

import json
import math
import os
import traceback
from typing import Any, NamedTuple, NoReturn

from s0.sandbox import isolate, seccomp, trial, wire

#: room, in bytes, beyond the candidate's own limit: this side holds the expected and the returned values
_EXTRA = 512 << 20


def cpu_limit(timeout_s: float) -> int:
    """Seconds of CPU time after which the kernel itself ends a process, should the judge not have done so."""
    return 2 * math.ceil(timeout_s) + 2


class Guard(NamedTuple):
    """What confines the child; None for a mechanism the tier lacks."""

    filter: seccomp.Filter | None
    rules: int | None

    def apply(self, memory: int, cpu_seconds: int) -> None:
        isolate.set_limits(memory, cpu_seconds)
        if self.filter is not None:
            isolate.drop_capabilities()
        if self.rules is not None:
            isolate.restrict(self.rules)
        if self.filter is not None:
            isolate.install_filter(self.filter.for_pid(os.getpid()))


def _report(result: int, kind: str, detail: object = "") -> None:
    wire.write_frame(result, json.dumps({"kind": kind, "detail": str(detail)}).encode())


def hold(guard: Guard, parent: int, request: dict[str, Any], reader: int, writer: int, result: int) -> NoReturn:
    """Runs in the forked child of `parent` and ends it.

    Sends over `result`: the frame "started" when the candidate is confined, a JSON frame with kind and detail, and for
    kind "rows" one more frame with what the candidate sent.
    """
    try:
        isolate.die_with_parent(parent)
        low = 3
        for fd in sorted({reader, writer, result, guard.rules or result}):
            os.closerange(low, fd)
            low = fd + 1
        os.closerange(low, 4096)
        if wire.read_frame(reader) != b"ready":
            os._exit(1)
        guard.apply(_EXTRA + request["memory"], cpu_limit(request["timeout_s"]))
        if guard.rules is not None:
            os.close(guard.rules)
        wire.write_frame(result, b"started")
        if "sql" in request:
            _query(request, reader, writer, result)
        else:
            _report(result, **trial.judge(trial.Session(reader, writer), request))
    except BaseException:
        _report(result, "infra", "bug in the judge: " + traceback.format_exc(limit=-3))
    finally:
        os._exit(0)


def _query(request: dict[str, Any], reader: int, writer: int, result: int) -> None:
    wire.write_frame(writer, wire.dumps({k: request[k] for k in ("sql", "timeout_s", "max_rows", "max_bytes")}))
    try:
        # ASCII JSON needs at most six bytes per byte of text
        payload = wire.read_frame(reader, 6 * request["max_bytes"] + (1 << 16))
    except wire.WireError as exc:
        _report(result, "protocol", exc)
        return
    if payload is None:
        _report(result, "died", "ended before answering")
        return
    _report(result, "rows")
    wire.write_frame(result, payload)
