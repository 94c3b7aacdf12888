"""Progress of long work: rich bars with rate and time left on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol


class Bar(Protocol):
    def advance(self, n: int = 1) -> None: ...

    def note(self, text: str) -> None: ...


class _Plain:
    """One line per `every` seconds and one at the end: readable in a log file."""

    def __init__(self, label: str, total: int | None, unit: str, every: float = 10.0):
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.done, self.start, self.last, self.extra = 0, time.monotonic(), time.monotonic(), ""

    def advance(self, n: int = 1) -> None:
        self.done += n
        if time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            self.line()

    def note(self, text: str) -> None:
        self.extra = text

    def line(self, end: bool = False) -> None:
        spent = time.monotonic() - self.start
        rate = self.done / spent if spent > 0 else 0.0
        of = f"/{self.total}" if self.total else ""
        left = f", {(self.total - self.done) / rate:.0f} s left" if self.total and rate and not end else ""
        extra = f", {self.extra}" if self.extra else ""
        print(f"  {self.label}: {self.done}{of} {self.unit} in {spent:.1f} s ({rate:.1f}/s{left}{extra})", flush=True)


class _Rich:
    def __init__(self, progress: Any, task: Any):
        self.progress, self.task = progress, task

    def advance(self, n: int = 1) -> None:
        self.progress.advance(self.task, n)

    def note(self, text: str) -> None:
        self.progress.update(self.task, note=text)


@contextlib.contextmanager
def bar(label: str, total: int | None, unit: str) -> Iterator[Bar]:
    """A bar for the duration of the context. Nested bars share the terminal line by line."""
    if not sys.stdout.isatty():
        plain = _Plain(label, total, unit)
        yield plain
        plain.line(end=True)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ) as progress:
        yield _Rich(progress, progress.add_task(label, total=total, note=""))
