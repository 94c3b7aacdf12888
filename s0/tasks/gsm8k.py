"""GSM8K: grade-school word problems with one number as the answer.

    python run.py task=gsm8k task.path=tests/data/gsm8k

Published protocol: the first 200 rows of train for training, all 1,319 rows of test held out (`cut` has the rule for
smaller local data). Columns: question, answer (a worked solution that ends in `#### NUMBER`).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from s0.data import Problem, Verdict
from s0.errors import DataError
from s0.tasks.base import GradingItem
from s0.tasks.benchmark import Benchmark
from s0.tasks.source import Row, Source, cut
from s0.tasks.text import strip_thinking

if TYPE_CHECKING:
    from s0.sandbox import Sandbox

COLUMNS: dict[str, type] = {"question": str, "answer": str}
INSTRUCTION = "Solve this math problem step by step. End with the answer after ####.\n\n"

#: characters of the longest number read; Python refuses to convert very long ones
MAX_LENGTH = 100
_SCALE = {"": 1, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_SIGNS, _CURRENCY = "-+−–", "$€£¥₹"
# Every pattern below is tried at one place or consumes what it scans, so that reading takes time linear in the text;
# white space is collapsed to single spaces first.
_RUN = re.compile(r"[\d.,]+")
_DIGITS = re.compile(r"(\d{1,3}(?:,\d{3})+|\d+)?(\.\d+)?")  # a comma groups three digits or the run is not a number
_DIVISOR = re.compile(r" ?/ ?([\d.,]+)")
_SCALED = re.compile(r" (thousand|million|billion)\b")
#: stands where markup between two digits was removed: `5*2` and `1_000` are neither 52 nor 1000 nor two numbers
_GLUE = "\x00"
# What follows the number where it is part of an expression ("2^5", "5!", "3(4)", "1e3") or not the only one ("5 or 6",
# "5 boys and 6 girls", "5-6", "1 234").
_HEDGE = re.compile(
    r"[!²³⁴-⁹¹⁰¼½¾\x00]|e[-+]?\d|[)\]$]*[(\[{]\d"
    r"|[)\]$]* ?(?:(?:[A-Za-z]+ )?(?:or|and|to|[-–—,;])|[:x×*^+/÷·]|times|cdot|plus|minus|(?:divided|multiplied) by)?"
    r" ?[$€£¥₹]? ?[-−]?\d"
    r"|[)\]$]* ?(?:[x×*^+/÷·]|times|cdot) ?[(\[{]",
    re.IGNORECASE,
)
_OPERATORS = ("√", "sqrt", "sqrt(", "frac", "^", "^(", "*", "/", "÷", "×", _GLUE)
_FRACTION = re.compile(r"\\[dt]?frac ?\{(-?[\d.,]+)\} ?\{([\d.,]+)\}")
_GROUPED = re.compile(r"(?<=\d)(?:\\[!,]|\{,\}|,\\!|\\!,)(?=\d{3})")
_MARKUP = re.compile(r"(?:\\boxed|\\text\w*|\\[!,()\[\]]|[*_`{}\\])+")
_PERCENT = re.compile(r"(?<=\d) ?%(?!\d)")


@dataclass(frozen=True)
class Number:
    """A number in a text, from sign and currency (`start`) to divisor and scale (`end`)."""

    digits: str
    divisor: str
    scale: str
    negative: bool
    part_of_more: bool
    start: int
    end: int

    @property
    def value(self) -> Fraction | None:
        """None where it is malformed ("1,23"), too long, divided by zero or part of an expression."""
        value, below = _value(self.digits), _value(self.divisor or "1")
        if value is None or not below or self.part_of_more:
            return None
        return value / below * _SCALE[self.scale] * (-1 if self.negative else 1)


def numbers(text: str) -> Iterator[Number]:
    """The numbers of `text` in order; white space must be single spaces."""
    start = 0
    while run := _RUN.search(text, start):
        lead = len(run[0]) - len(run[0].lstrip(".,"))
        digits = run[0][lead if run[0][:lead] != "." else 0 :].rstrip(".,")
        start, end = run.end(), run.start() + len(run[0].rstrip(".,"))
        if not digits:
            continue
        begin, negative = _sign(text, end - len(digits))
        divisor = _DIVISOR.match(text, end)
        if divisor:
            end = start = divisor.end() - len(divisor[1]) + len(divisor[1].rstrip(".,"))
        scale = _SCALED.match(text, end)
        if scale:
            end = start = scale.end()
        part_of_more = text.endswith(_OPERATORS, 0, begin) or text.startswith(_GLUE, end)
        below = divisor[1].rstrip(".,") if divisor else ""
        yield Number(digits, below, scale[1] if scale else "", negative, part_of_more, begin, end)


def _sign(text: str, first: int) -> tuple[int, bool]:
    """(where the number whose digits begin at `first` begins with currency and sign, is it negative)."""
    begin = first
    if begin > 1 and text[begin - 1] == " " and text[begin - 2] in _CURRENCY:
        begin -= 2
    elif begin and text[begin - 1] in _CURRENCY:
        begin -= 1
    # A minus right behind another number is a subtraction or a range.
    if begin and text[begin - 1] in _SIGNS and (begin == 1 or not re.match(r"[\d.,]", text[begin - 2])):
        return begin - 1, text[begin - 1] != "+"
    return begin, False


def _value(digits: str) -> Fraction | None:
    match = _DIGITS.fullmatch(digits) if len(digits) <= MAX_LENGTH else None
    return Fraction((match[1] or "0").replace(",", "") + (match[2] or "")) if match else None


def parse_number(text: str) -> Fraction | None:
    """The value of `text` when it is one number (sign, currency, thousands separators, decimals, a/b); else None."""
    text = " ".join(text.split()).rstrip(".")
    found = next(numbers(text), None)
    return found.value if found and (found.start, found.end) == (0, len(text)) else None


def extract_answer(text: str) -> tuple[Fraction | None, str]:
    """(value, where it was found) of the model's answer; `text` has no thinking block any more.

    The first `####` that a number follows on its line counts; of an equation the right-hand side. A line that offers two
    numbers ("5 or 6"), an expression ("5*2", "5!") or a malformed number ("1,23", "1_000") is no answer. Without a marker
    the last number of the text is taken, as the published evaluation does; the second value then says so.
    """
    for line in re.findall(r"####([^\n]*)", text):
        # After the marker a detached minus is a sign ("- 7"); elsewhere it is a subtraction ("12 - 7").
        plain = re.sub(r"\A([-−–]) ", r"\1", _clean(line.rpartition("=")[2]))
        found = next(numbers(plain), None)
        if found:
            return (None if _HEDGE.match(plain, found.end) else found.value), "####"
    last = next(iter(deque(numbers(_clean(text)), maxlen=1)), None)
    return (last.value if last else None), "no ####: last number"


def _clean(text: str) -> str:
    """`text` without Markdown and LaTeX markup, white space collapsed."""
    text = _FRACTION.sub(r" \1/\2", " ".join(text.split()))
    text = _MARKUP.sub(_unmarked, _GROUPED.sub("", text))
    return _PERCENT.sub("", text).replace("$ ", " ").strip()


def _unmarked(match: re.Match[str]) -> str:
    before, after = match.string[match.start() - 1 : match.start()], match.string[match.end() : match.end() + 1]
    return _GLUE if before.isdigit() and after.isdigit() else ""


class GSM8K(Benchmark):
    """Problem.prompt is the question, Problem.reference the gold number as the data writes it."""

    name = "gsm8k"
    grading = "numeric answer after ####"

    def load(self) -> tuple[list[Problem], list[Problem]]:
        source = Source(self.name, COLUMNS, self.path, self.hub_id, self.hub_revision, "main")
        parts = cut(source, source.tables(), heldout="test", first=200, n_heldout=1319)
        self.source = parts.label
        return (
            [self._problem(source, parts.train_split, n, row) for n, row in enumerate(parts.train)],
            [self._problem(source, parts.heldout_split, n, r) for n, r in enumerate(parts.heldout, parts.offset)],
        )

    def _problem(self, source: Source, split: str, number: int, row: Row) -> Problem:
        gold = row["answer"].rpartition("####")[2].strip()
        if "####" not in row["answer"] or parse_number(gold) is None:
            raise DataError(
                f"{self.name}: {source.label}, split {split}, row {number}: the answer does not end in '#### NUMBER' "
                f"(found {gold[-40:]!r}); correct the row"
            )
        return Problem(f"gsm8k/{split}/{number}", row["question"], gold)

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        return [{"role": "user", "content": INSTRUCTION + problem.prompt}]

    def clean(self, problem: Problem, text: str) -> str:
        return strip_thinking(text).strip()

    def grade_many(self, items: Sequence[GradingItem], sandbox: Sandbox | None) -> list[Verdict]:
        return [self._grade(item) for item in items]

    def _grade(self, item: GradingItem) -> Verdict:
        value, where = extract_answer(self.clean(item.problem, item.text))
        if value is None:
            return Verdict("wrong", "no numeric answer" if where != "####" else "#### is followed by no single number")
        found = f"{where}: {value if value.denominator == 1 else float(value)}"
        if value == parse_number(item.problem.reference):
            return Verdict("pass", found)
        return Verdict("wrong", f"{found}, expected {item.problem.reference}")
