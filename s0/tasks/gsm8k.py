"""GSM8K: grade-school word problems with one number as the answer.

    python run.py task=gsm8k task.path=tests/data/gsm8k

Published protocol: the first 200 rows of train for training, all 1,319 rows of test held out (`cut` has the rule for
smaller local data). Columns: question, answer (a worked solution that ends in `#### NUMBER`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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

# A comma groups three digits or the token is not a number; the look-arounds keep 1,23 and 1.2.3 from being read in part.
_NUMBER = re.compile(
    r"(?<![\d.,])(?P<sign>[-+−–]?)(?:[$€£¥₹]\s*)?(?P<whole>\d{1,3}(?:,\d{3})+|\d+)?(?P<decimals>\.\d+)?"
    r"(?![\d]|[.,]\d)(?:\s*/\s*(?P<divisor>\d+)(?![\d.,]\d))?(?:\s+(?P<scale>thousand|million|billion)\b)?"
)
#: characters of the longest number read; Python refuses to convert very long ones
MAX_LENGTH = 100
_SCALE = {None: 1, "thousand": 10**3, "million": 10**6, "billion": 10**9}
# What follows the number where the line offers no single one: "5 or 6", "5 boys and 6 girls", "5-6", "2^5", "1 234".
_HEDGE = re.compile(r"\s*(?:(?:[A-Za-z]+\s+)?(?:or|and|to|[-–—,;])|[:x×*^+/])?\s*[$€£¥₹]?\s*[-−]?\d", re.IGNORECASE)
_MARKUP = re.compile(r"\\boxed|\\text\w*|\\!|\\,|\\\(|\\\)|\\\[|\\\]|[*_`{}\\]|(?<=\d)\s*%")


def parse_number(text: str) -> Fraction | None:
    """The value of `text` when it is one number (sign, currency, thousands separators, decimals, a/b); else None."""
    match = _match(text.strip().rstrip("."))
    return _value(match) if match and match.end() == len(match.string) and match.start() == 0 else None


def _match(text: str, start: int = 0) -> re.Match[str] | None:
    for match in _NUMBER.finditer(text, start):
        if match["whole"] or match["decimals"]:
            return match
    return None


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match[0]) > MAX_LENGTH:
        return None
    number = Fraction((match["whole"] or "0").replace(",", "") + (match["decimals"] or ""))
    if match["divisor"] is not None:
        if int(match["divisor"]) == 0:
            return None
        number /= int(match["divisor"])
    return number * _SCALE[match["scale"]] * (-1 if match["sign"] in ("-", "−", "–") else 1)


def extract_answer(text: str) -> tuple[Fraction | None, str]:
    """(value, where it was found) of the model's answer; `text` has no thinking block any more.

    The first `####` that a number follows on its line counts; of an equation the right-hand side. A line that offers two
    numbers ("5 or 6") or a malformed one ("1,23") is no answer. Without a marker the last number of the text is taken,
    as the published evaluation does; the second value then says so.
    """
    for line in re.findall(r"####([^\n]*)", text):
        # After the marker a detached minus is a sign ("- 7"); elsewhere it is a subtraction ("12 - 7").
        plain = re.sub(r"^\s*([-−–])\s+", r"\1", _clean(line.rpartition("=")[2]))
        match = _match(plain)
        if match:
            return (None if _HEDGE.match(plain, match.end()) else _value(match)), "####"
        if re.search(r"\d", plain):
            return None, "####"
    last = None
    for match in _NUMBER.finditer(_clean(text)):
        last = match if match["whole"] or match["decimals"] else last
    return (_value(last) if last else None), "no ####: last number"


def _clean(text: str) -> str:
    return _MARKUP.sub("", text).replace("$ ", " ").replace("\u00a0", " ")


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
