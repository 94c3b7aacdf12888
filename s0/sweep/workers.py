"""One machine, several devices: one process per device, cells handed out through claims.

python run.py -m method.alpha=0.03,0.07 seed=0..9 workers=2
CUDA_VISIBLE_DEVICES=0,3 python run.py experiment=table1_main workers=2
python scripts/sweep.py --workers 8 --gpus-per-worker 2 ...

A worker that dies is replaced and its cell taken over; a cell that takes three workers down is a failure.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from s0.errors import ConfigError
from s0.paths import ROOT
from s0.sweep.ledger import Sweep
from s0.sweep.plan import Planned
from s0.sweep.work import work

#: a cell that killed so many processes is not tried again
MAX_ATTEMPTS = 3
#: seconds a worker has to stop after Ctrl-C before it is killed
GRACE_S = 10.0
PR_SET_PDEATHSIG = 1


def devices() -> list[str]:
    """CUDA devices this process may use: CUDA_VISIBLE_DEVICES, else what the driver lists, else none (CPU)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [d.strip() for d in visible.split(",") if d.strip() and d.strip() != "-1"]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(n) for n in range(len(lines))] if listed.returncode == 0 else []


def environments(n: int, available: Sequence[str], per_worker: int = 1) -> list[dict[str, str]]:
    """Environment additions of n workers: devices in turn (each worker its own while there are enough), threads divided.

    Raises ConfigError when a worker needs more devices than there are.
    """
    if available and per_worker > len(available):
        raise ConfigError(f"--gpus-per-worker {per_worker}: {len(available)} device(s) visible; give at most that many")
    threads = str(max(1, len(os.sched_getaffinity(0)) // n))
    # libraries read their own variables when they are loaded; S0_THREADS is for torch, set per cell
    share = {"S0_THREADS": threads, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    out = []
    for i in range(n):
        mine = {"S0_WORKER": str(i), **share}
        if available:
            first = i * per_worker
            mine["CUDA_VISIBLE_DEVICES"] = ",".join(available[(first + k) % len(available)] for k in range(per_worker))
        out.append(mine)
    return out


class Worker:
    """A child process with its output copied line by line to ours."""

    def __init__(self, index: int, sweep: Sweep, environment: dict[str, str]):
        self.index, self.tail = index, deque[str](maxlen=1)
        path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "s0.sweep.workers", str(sweep.folder), str(os.getpid())],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **environment},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops its workers in order
        )
        self._copy = threading.Thread(target=self._lines, daemon=True)
        self._copy.start()

    def _lines(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.tail.append(line.strip())
            print(f"[worker {self.index}] {line}", end="", flush=True)

    def ended(self) -> int | None:
        code = self.process.poll()
        if code is not None:
            self._copy.join(timeout=5)
        return code

    def signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def run_pool(
    cells: Sequence[Planned],
    sweep: Sweep,
    n: int,
    available: Sequence[str] | None = None,
    per_worker: int | None = None,
) -> str:
    """Work through the cells with n processes. Returns why cells have no outcome ("" if all have one)."""
    n = min(n, len(cells))
    per_worker = per_worker or int(os.environ.get("S0_GPUS_PER_WORKER", 1))
    environment = environments(n, devices() if available is None else available, per_worker)
    replacements = MAX_ATTEMPTS * len(cells)
    why = ""
    with stopping() as workers:
        workers += [Worker(i, sweep, e) for i, e in enumerate(environment)]
        while workers:
            time.sleep(0.1)
            for worker in [w for w in workers if w.ended() is not None]:
                workers.remove(worker)
                code = worker.process.returncode
                if code == 0 or all(sweep.get(i) for i in range(len(cells))):
                    continue
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                why = f"worker {worker.index} ended with {how}: {worker.tail[-1] if worker.tail else 'no output'}"
                if replacements:
                    replacements -= 1
                    print(f"worker {worker.index} died ({how}); its cell is taken over", flush=True)
                    workers.append(Worker(worker.index, sweep, environment[worker.index]))
    return why


@contextlib.contextmanager
def stopping() -> Iterator[list[Worker]]:
    """A list of workers none of which outlives the context."""
    workers: list[Worker] = []
    try:
        yield workers
    finally:
        for w in workers:
            w.signal_group(signal.SIGTERM)
        end = time.monotonic() + GRACE_S
        for w in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                w.process.wait(max(0.0, end - time.monotonic()))
            w.signal_group(signal.SIGKILL)
            w.process.wait()


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent dies, however it dies."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the call
        raise SystemExit(1)


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def main(folder: str, parent: int) -> int:
    _die_with(parent)
    signal.signal(signal.SIGTERM, _stop)
    device = os.environ.get("CUDA_VISIBLE_DEVICES", "cpu")
    print(f"process {os.getpid()}, device {device}, {os.environ['S0_THREADS']} thread(s)", flush=True)
    sweep = Sweep(Path(folder))
    try:
        work(sweep.plan(), sweep, max_attempts=MAX_ATTEMPTS)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
