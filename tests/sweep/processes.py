"""Which processes a process has started, and which of them still live (from /proc)."""

from __future__ import annotations

import time
from pathlib import Path


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def alive(pid: int) -> bool:
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for p in Path("/proc").iterdir():
        if p.name.isdigit() and (stat := _stat(int(p.name))):
            parents[int(p.name)] = int(stat[1])
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def gone(pids: set[int], within_s: float) -> set[int]:
    """Those of `pids` that still live after at most so many seconds."""
    end = time.monotonic() + within_s
    while (left := {p for p in pids if alive(p)}) and time.monotonic() < end:
        time.sleep(0.05)
    return left
