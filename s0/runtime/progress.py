"""Progress of long work: rich bars with rate and time left on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol

#: the time left is told once this part of the work is done: the first completions of a batch take as long as all of them
TELLING = 0.1


def time_left(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 600
        else f"{seconds / 60:.0f} min"
        if seconds < 36000
        else f"{seconds / 3600:.0f} h"
    )


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
        told = self.total is not None and self.done - self.begun >= TELLING * (self.total - self.begun)
        left = (
            f", {time_left((self.total - self.done) / rate)} left" if self.total and told and rate and not end else ""
        )
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


#: narrower terminals show neither rate nor notes, and a bar of fixed width
WIDE = 100


def _rich() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f}/s" if speed else "", style="progress.data.speed")

    class Left(ProgressColumn):
        max_refresh = 0.5

        def render(self, task: Any) -> Text:
            told = task.total and not task.finished and task.completed >= TELLING * task.total and task.time_remaining
            return Text(f"{time_left(task.time_remaining)} left" if told else "", style="progress.remaining")

    console = Console()
    name = TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=44, overflow="ellipsis"))
    if console.width < WIDE:
        return Progress(name, BarColumn(bar_width=12), MofNCompleteColumn(), Left(), console=console)
    note = TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True))
    unit = TextColumn("{task.fields[unit]}")
    return Progress(
        name, BarColumn(), MofNCompleteColumn(), unit, Rate(), TimeElapsedColumn(), Left(), note, console=console
    )
