"""How much of its time a check has used, counted so that other work on the machine costs it nothing.

What counts is the CPU time of the candidate and of the test, plus the time in which neither had anything to run (asleep,
stopped, waiting for input). Time spent waiting for a processor counts for nothing.
"""

from __future__ import annotations

import time
from typing import NamedTuple

#: most threads a confined process may have
MAX_THREADS = 256
#: seconds of wall-clock time a check may take, per second of its limit and on top: a machine that gives it less than a
#: tenth of a processor is overloaded
WALL_FACTOR, WALL_EXTRA_S = 10.0, 10.0
#: share of the wall-clock time spent waiting for a processor from which a time limit met counts as doubtful
DISTURBED = 0.05
_FIRST_S, _LATER_S = 0.005, 0.05


class _Sample(NamedTuple):
    cpu: float
    runnable: bool
    threads: int


def _look(pid: int) -> _Sample | None:
    """From /proc/<pid>/stat; None where there is no such process or no such file."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        # the process's CPU clock (clock_getcpuclockid), finer than the ticks of fields 11 and 12
        cpu = time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return None
    return _Sample(cpu, fields[0] == b"R", int(fields[17]))


class Watch:
    """Samples the processes `pids`; `used` and `waiting` are seconds since the construction."""

    def __init__(self, pids: list[int]):
        self.pids = pids
        self.used = self.waiting = 0.0
        self.threads = 1
        self.begun = self._at = time.monotonic()
        self._cpu = {pid: s.cpu for pid in pids if (s := _look(pid))}
        self._pause = _FIRST_S

    def sample(self) -> None:
        now = time.monotonic()
        passed, self._at = now - self._at, now
        computed, runnable = 0.0, False
        for pid in self.pids:
            seen = _look(pid)
            if seen is not None:
                computed += max(0.0, seen.cpu - self._cpu.get(pid, 0.0))
                self._cpu[pid] = seen.cpu
                runnable |= seen.runnable
                self.threads = max(self.threads, seen.threads)
        if runnable:
            self.used += computed
            self.waiting += max(0.0, passed - computed)
        else:
            self.used += max(computed, passed)

    @property
    def wall(self) -> float:
        return self._at - self.begun

    @property
    def disturbed(self) -> bool:
        return self.waiting > DISTURBED * self.wall

    def pause(self, left: float) -> float:
        """Seconds until the next look is due, `left` seconds of the limit remaining."""
        self._pause = min(1.5 * self._pause, _LATER_S)
        return max(min(self._pause, left), 0.001)
