"""Progress of long work: rich bars with rate and time left on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol


class Bar(Protocol):
    """What work reports to. `to` sets how much is done of how much (for work that may begin in the middle)."""

    def advance(self, n: int = 1) -> None: ...

    def to(self, done: int, total: int) -> None: ...

    def note(self, text: str) -> None: ...


class Plain:
    """One line per `every` seconds and one at the end: readable in a log file."""

    def __init__(self, label: str, total: int | None, unit: str, every: float = 10.0):
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.done, self.begun, self.extra = 0, 0, ""
        self.start = self.last = time.monotonic()

    def advance(self, n: int = 1) -> None:
        self.done += n
        if time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            print(self.line(self.last - self.start), flush=True)

    def to(self, done: int, total: int) -> None:
        if self.total is None:
            self.begun = self.done = done - 1  # the first report: what a killed run had done is not our rate
        self.total = total
        self.advance(done - self.done)

    def note(self, text: str) -> None:
        self.extra = text

    def line(self, spent: float, end: bool = False) -> str:
        """The line after `spent` seconds: what is done, the rate, and the time left."""
        rate = (self.done - self.begun) / spent if spent > 0 else 0.0
        of = f"/{self.total}" if self.total else ""
        left = f", {(self.total - self.done) / rate:.0f} s left" if self.total and rate and not end else ""
        extra = f", {self.extra}" if self.extra else ""
        return f"  {self.label}: {self.done}{of} {self.unit} in {spent:.1f} s ({rate:.1f}/s{left}{extra})"


class _Rich:
    def __init__(self, progress: Any, task: Any):
        self.progress, self.task = progress, task

    def advance(self, n: int = 1) -> None:
        self.progress.advance(self.task, n)

    def to(self, done: int, total: int) -> None:
        self.progress.update(self.task, completed=done, total=total)

    def note(self, text: str) -> None:
        self.progress.update(self.task, note=text)


#: the terminal's one live display, while a bar is open; bars inside a bar are lines of it
_display: list[Any] = []


@contextlib.contextmanager
def bar(label: str, total: int | None, unit: str, quiet_s: float = 0.0) -> Iterator[Bar]:
    """A bar for the duration of the context; without a terminal, no line at the end if it took less than `quiet_s`.

    Bars may be opened inside bars (by one thread).
    """
    if not sys.stdout.isatty():
        plain = Plain(label, total, unit)
        yield plain
        spent = time.monotonic() - plain.start
        if spent >= quiet_s:
            print(plain.line(spent, end=True), flush=True)
        return
    with contextlib.ExitStack() as stack:
        if not _display:
            _display.append(stack.enter_context(_rich()))
            stack.callback(_display.clear)
        progress = _display[0]
        task = progress.add_task(f"  {label}", total=total, unit=unit, note="")
        yield _Rich(progress, task)
        progress.stop_task(task)


def _rich() -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f}/s" if speed else "", style="progress.data.speed")

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
