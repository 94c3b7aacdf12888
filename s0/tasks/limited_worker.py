"""The loop of a limited process: one request after the other, each under a CPU limit that ends the process.

    python -P limited_worker.py HANDLER.py MEMORY_BYTES

HANDLER.py defines `handle(request) -> JSON value` and may define `warm()`, which imports what it needs before the first
clock starts. This file imports nothing of the project, so that the process starts fast and holds no model.
Protocol: one JSON object per line on stdin, its `limit` the CPU seconds allowed; per line back one {"value"} or
{"error", "kind"}. `s0.tasks.limited` starts, feeds and ends it.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import runpy
import signal
import sys
from typing import Any


def main(handler: str, memory_bytes: int) -> None:
    """Answer requests until stdin closes. The CPU timer's signal is not handled: it ends the process inside native code too."""
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reply_fd = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    names = runpy.run_path(handler)
    names.get("warm", lambda: None)()
    _reply(reply_fd, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request["limit"])
        try:
            reply: dict[str, Any] = {"value": names["handle"](request)}
        except MemoryError:
            reply = {"kind": "memory", "error": "out of memory"}
        except RecursionError:
            reply = {"kind": "error", "error": "nested too deeply"}
        except Exception as error:  # any failure inside the handler is its input's, and is reported as such
            reply = {"kind": "error", "error": f"{type(error).__name__}: {error}"[:200]}
        signal.setitimer(signal.ITIMER_PROF, 0)
        _reply(reply_fd, reply)


def _reply(fd: int, value: dict[str, Any]) -> None:
    data = (json.dumps(value) + "\n").encode()
    while data:
        data = data[os.write(fd, data) :]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
