"""How the cost of reading model-written text grows with its length.

    python -m s0.tasks.growth [--per-unit N]

prints, per task and step, the largest CPU time and memory this process needed for 64 k characters of any flood, and the
exponent from 8 k to 64 k where the time is large enough to have one (1 is linear, 2 quadratic). Processes with limits
of their own (layout repair, math-verify, the sandbox) are not counted: what they cost is bounded by their limits.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from s0.data import Problem
from s0.tasks import make_task
from s0.tasks.base import GradingItem, Task
from s0.tasks.gsm8k import extract_answer
from s0.tasks.sqlmatch import prepare
from s0.tasks.text import fenced_blocks, last_boxed, strip_thinking

SIZES = (1_000, 8_000, 64_000)
#: CPU seconds below which no exponent is taken: the clock and the allocator would decide it
FLOOR_S = 0.05
#: CPU seconds at which larger sizes are not tried
STOP_S = 2.0
#: largest exponent that counts as linear, caches and allocator included
LINEAR = 1.5
#: bytes of memory per character that no step may exceed
BYTES_PER_CHARACTER = 2_000

#: what is repeated
UNITS = (
    " ", "\n", "\t", "\r\n", " \n", "\u00a0", "\u2028", "\x00", "\ud800", "\U0001f600", "9", "1,", "1,111", "1.", "1/",
    "1 ", "1e", "-", "$", "%", "5%", "*", "5*", "_", "=", "#", "####", "#### 5 or\n", "`", "~", "```", "```\n",
    "~~~ a\n", "```x\ny\n", "(", ")", "[", "]", "{", "}", "{}", "\\", "\\\\", "\\{", "\\boxed", "\\boxed ", "\\boxed{",
    "\\fbox{1}", "\\text", "\\frac{1}", "<think>", "</think>", "<think>a</think>", "a", "a ", "or ", "thousand ",
    "def f(", "async ", "def ", "SELECT ", "with ", "'", '"', '"""', "--", "/*", "*/", "YEAR(", "YEAR ( ", "distinct ",
    "> =", "lambda:", "not ", "if 1:\n", "x=", "x=(", "f'{", "@", ";", ":", "!",
)  # fmt: skip
PREFIXES = (
    "",
    "#### 5",
    "```",
    "~~~",
    "<think>",
    "\\boxed{",
    "\\boxed",
    "SELECT 1",
    "    return 1",
    "def f(x):\n",
    "/*",
    "'",
)
SUFFIXES = ("", "x", "`", "\n####", "}", "</think>x", "\n```\n", "5", "*/")


@dataclass(frozen=True)
class Flood:
    """`prefix`, then `unit` as often as fits, then `suffix`."""

    prefix: str
    unit: str
    suffix: str

    def text(self, size: int) -> str:
        return self.prefix + self.unit * (size // len(self.unit)) + self.suffix


@dataclass(frozen=True)
class Growth:
    """CPU seconds at the largest size tried, and the exponent to it from the one before (None below FLOOR_S)."""

    seconds: float
    exponent: float | None


def floods(per_unit: int) -> Iterator[Flood]:
    """Every unit between `per_unit` of the pairs of prefix and suffix, which take turns; 0 for all pairs."""
    pairs = list(itertools.product(PREFIXES, SUFFIXES))
    # Seven has no factor in common with the number of pairs, so that all of them come up.
    turns = itertools.cycle(pairs[7 * i % len(pairs)] for i in range(len(pairs)))
    for unit in UNITS:
        ends = pairs if not per_unit else itertools.islice(turns, per_unit)
        yield from (Flood(prefix, unit, suffix) for prefix, suffix in ends)


def measure(step: Callable[[str], object], flood: Flood) -> Growth:
    """CPU time of this process for `step` on the flood. Sizes rise, and end where one is slow: a fault of any order ends."""
    seconds: dict[int, float] = {}
    for size in SIZES:
        seconds[size] = _seconds(step, flood.text(size))
        if seconds[size] > FLOOR_S / 20:  # may end up in the exponent: a second look, against what else runs
            seconds[size] = min(seconds[size], _seconds(step, flood.text(size)))
        if seconds[size] > STOP_S or seconds[size] * (SIZES[-1] / size) ** 3 < FLOOR_S:
            break
    sizes = list(seconds)
    largest = seconds[sizes[-1]]
    if largest < FLOOR_S:
        return Growth(largest, None)
    if len(sizes) == 1:
        return Growth(largest, math.inf)
    return Growth(largest, math.log(largest / seconds[sizes[-2]]) / math.log(sizes[-1] / sizes[-2]))


def _seconds(step: Callable[[str], object], text: str) -> float:
    start = time.process_time()
    step(text)
    return time.process_time() - start


def memory(step: Callable[[str], object], text: str) -> int:
    """Most bytes that `step` held at a time in this process."""
    tracemalloc.start()
    try:
        step(text)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


_TEST = "def check(f):\n    assert f(1) == 1\n"
PROBLEMS = {
    "humaneval": Problem("HumanEval/0", 'def f(x):\n    """Doc."""\n', _TEST, {"entry_point": "f"}),
    "gsm8k": Problem("gsm8k/0", "question", "42"),
    "math500": Problem("math500/0", "question", "42", {"level": 1, "subject": "Algebra"}),
    "spider": Problem("spider/0", "question", "SELECT 1", {"db_id": "d"}),
}


def steps() -> Iterator[tuple[str, Callable[[str], object]]]:
    """(name, function of the text) of everything that reads model output in this process without running it."""
    yield "extract thinking", strip_thinking
    yield "extract fences", fenced_blocks
    yield "extract box", last_boxed
    yield "extract number", extract_answer
    for name, problem in PROBLEMS.items():
        yield f"{name} clean", partial(make_task(name).clean, problem)
    yield (
        "humaneval clean, published",
        partial(make_task("humaneval", {"match": "published"}).clean, PROBLEMS["humaneval"]),
    )
    yield "spider prepare", partial(prepare, keep_distinct=False)
    for name in ("gsm8k", "math500"):
        yield f"{name} grade", partial(grade, make_task(name), PROBLEMS[name])


def grade(task: Task, problem: Problem, text: str, sandbox: object = None) -> object:
    return task.grade_many([GradingItem(problem, text)], sandbox)  # type: ignore[arg-type]


def table(per_unit: int) -> Iterator[str]:
    """Markdown lines: one row per step, with the flood that cost most."""
    yield "| step | floods | CPU ms at 64 k, worst | exponent | worst flood | MB at 64 k |"
    yield "|---|---:|---:|---:|---|---:|"
    for name, step in steps():
        step("warm up")
        found = [(measure(step, flood), flood) for flood in floods(per_unit)]
        (growth, worst) = max(found, key=lambda pair: (pair[0].exponent or 0, pair[0].seconds))
        held = memory(step, worst.text(SIZES[-1])) / 1e6
        exponent = "-" if growth.exponent is None else f"{growth.exponent:.2f}"
        shown = repr(worst.prefix + "|" + worst.unit + "...|" + worst.suffix).replace("|", "\\|").replace("`", "'")
        yield f"| {name} | {len(found)} | {1e3 * growth.seconds:.0f} | {exponent} | {shown} | {held:.1f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-unit", type=int, default=3, help="floods per repeated unit; 0 for all (3)")
    for line in table(parser.parse_args().per_unit):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
