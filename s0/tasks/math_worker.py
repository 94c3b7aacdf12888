"""Are two mathematical answers equal? Runs in a limited process (`s0.tasks.limited`), because an answer can make a
computer algebra system loop for ever or fill the memory. This file imports nothing of the project.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

MAX_LENGTH = 2000
#: relative difference up to which a decimal stands for an exact value (0.333333 for 1/3)
RELATIVE_TOLERANCE = 2e-6

_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\[,;:!> ]|\\q?quad|~")
_DELIMITERS = re.compile(r"\\left\s*(?=[(\[{|.\\])|\\right\s*(?=[)\]}|.\\])|\\[bB]igg?[lr]?\s*(?=[()\[\]\\|])")
_REPEATING = re.compile(r"(?<![\d.])(\d*)\.(\d*)\\overline\s*\{(\d+)\}")
_PERCENT = re.compile(r"\s*(?:\\?%|\bpercent\b)\s*$")
_UNIT_WORDS = re.compile(
    r"(?<=[\d\s})])\s*(?:(?:square|cubic|sq\.?)\s+)?(degrees?|units?|dollars?|cents?|inch(?:es)?|feet|foot|ft|yards?|miles?|"
    r"mph|cm|mm|km|m|meters?|centimeters?|kilometers?|kg|grams?|pounds?|hours?|minutes?|seconds?|days?|weeks?|months?|"
    r"years?|students?|people|ways|points?|sides?)(?:\s*\^\s*\{?[23]\}?)?\s*$",
    re.IGNORECASE,
)


#: other spellings of a unit; words that count ("5 ways", "5 units") name no unit and agree with every one
_SPELLINGS = {"inches": "inch", "feet": "foot", "ft": "foot", "cm": "centimeter", "km": "kilometer", "m": "meter"}
_COUNTING = ("unit", "student", "people", "way", "point", "side")


def normalise(answer: str) -> str:
    """`answer` without layout: dollar signs, spacing commands, \\left/\\right, text wrappers, trailing units and period."""
    answer = _unwrapped(answer)
    if re.search(r"\d", answer):
        answer = _UNIT_WORDS.sub("", answer).strip()
    # Digits grouped in threes are one number, but only where the whole answer is that number: "1,200" yes, "(1,200)" no.
    if re.fullmatch(r"-?\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?:\.\d+)?(?:\s*\\?%)?", answer):
        answer = re.sub(r"(?<=\d)[, ](?=\d)", "", answer)
    return re.sub(r"^(-?\d+) (\d+)\s*/\s*(\d+)$", r"\1\\frac{\2}{\3}", answer)


def _unwrapped(answer: str) -> str:
    answer = answer.strip()
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$")):
        if len(answer) > len(opening) + len(closing) and answer.startswith(opening) and answer.endswith(closing):
            answer = answer[len(opening) : -len(closing)]
    answer = re.sub(r"(?<=\d)\s*(?:\{,\}|,\\!|\\!,)\s*(?=\d{3})", ",", answer)
    answer = _SPACING.sub(" ", _DELIMITERS.sub("", answer))
    answer = answer.replace("\\varnothing", "\\emptyset").replace("−", "-").replace("\\$", "").strip("$ \t\n")
    while _TEXT.search(answer):
        answer = _TEXT.sub(r" \1 ", answer)
    answer = re.sub(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree|°", "", answer)
    answer = _REPEATING.sub(_repeating, answer)
    return re.sub(r"\s+", " ", answer).strip().rstrip(".").strip()


def unit(answer: str) -> str:
    """The unit that ends `answer`, singular and spelt out ("%" for a percentage); empty where none is named."""
    plain = _unwrapped(answer)
    if _PERCENT.search(plain):
        return "%"
    match = _UNIT_WORDS.search(plain) if re.search(r"\d", plain) else None
    if match is None:
        return ""
    word = match[1].lower()
    word = _SPELLINGS.get(word, word.removesuffix("s"))
    return "" if word in _COUNTING else word


def _repeating(match: re.Match[str]) -> str:
    whole, fixed, period = match[1] or "0", match[2], match[3]
    value = Fraction(int(whole + fixed + period) - int(whole + fixed), 10 ** len(fixed) * (10 ** len(period) - 1))
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


_TWO_NUMBERS = re.compile(r"\d \d")
_BASE = re.compile(r"\d\s*_\s*\{?\s*(\d+)\s*\}?\s*\$?\s*$")


def words(answer: str) -> str:
    """Letters and digits only, lower case: how answers made of words are compared."""
    return re.sub(r"[^0-9a-z]+", "", answer.lower())


def is_text(gold: str) -> bool:
    r"""Is the gold answer words rather than mathematics: `\text{...}` around letters, or a choice such as (C)?"""
    outside = _TEXT.sub("", gold)
    if re.fullmatch(r"\(?[A-E]\)?", gold.strip()):
        return True
    return bool(_TEXT.search(gold)) and not re.search(r"[0-9A-Za-z\\]", outside) and bool(re.search(r"[A-Za-z]", gold))


def shape(answer: str) -> str:
    """`ordered` for (a, b) and [a, b], `unordered` for {a, b} and a, b; empty for a single value."""
    depth, top_commas = 0, 0
    for character in answer.replace("\\{", "{").replace("\\}", "}"):
        depth += character in "([{"
        depth -= character in ")]}"
        top_commas += character == "," and depth == 0
    if top_commas:
        return "unordered"
    bare = answer.replace("\\{", "\x01").replace("\\}", "\x02")
    if "," in bare and bare[:1] in "([" and bare[-1:] in ")]" and not re.search(r"\\cup|\\cap|∪|∩", bare):
        return "ordered"
    if "," in bare and bare[:1] == "\x01" and bare[-1:] == "\x02":
        return "unordered"
    return ""


def equivalent(gold: str, answer: str) -> bool:
    """Is `answer` the value `gold`? Both are contents of a \\boxed{}. No time or memory limit here.

    Exact values compare exactly, decimals within RELATIVE_TOLERANCE. Percent signs: 50%, 50 and 0.5 answer 50%; 50% answers 50
    and 0.5. A list in parentheses or brackets never equals one without or in braces. Two units, or two bases, must agree
    where both are named; numbers side by side are two numbers; of an equation every side without a variable must be equal.
    """
    if len(answer) > MAX_LENGTH or not answer.strip() or not _balanced(answer):
        return False
    text = is_text(gold)
    plain_gold, plain = normalise(gold), normalise(answer)
    if text:
        return bool(words(plain_gold)) and words(plain_gold) == words(plain)
    if contradicts(gold, answer):
        return False
    if _squeezed(plain_gold) == _squeezed(plain):
        return True
    if _TWO_NUMBERS.search(plain) or not _true_equation(plain):
        return False
    if re.sub(r"^[A-Za-z]\s*=\s*", "", plain) == plain_gold:
        return True
    gold_percent, percent = bool(_PERCENT.search(plain_gold)), bool(_PERCENT.search(plain))
    if gold_percent or percent:
        g, a = _PERCENT.sub("", plain_gold), _PERCENT.sub("", plain)
        hundredth = f"\\frac{{{g if gold_percent else a}}}{{100}}"
        if gold_percent and percent:
            return _same(g, a)
        return _same(g, a) or (_same(hundredth, a) if gold_percent else _same(g, hundredth))
    return _same(plain_gold, plain)


def contradicts(gold: str, answer: str) -> bool:
    """Do both name a unit, and another one; or does the answer name a base that the gold answer does not have?"""
    units = unit(gold), unit(answer)
    if all(units) and units[0] != units[1]:
        return True
    bases = [match[1] if (match := _BASE.search(text)) else "" for text in (gold, answer)]
    return bool(bases[1]) and bases[0] != bases[1]


def _squeezed(plain: str) -> str:
    """Without spaces, save those that keep two numbers apart."""
    return re.sub(r"(?<!\d) | (?!\d)", "", plain)


def _true_equation(plain: str) -> bool:
    """Are all sides of the chain of equations `plain` that hold no variable equal?"""
    if "," in plain or not re.search(r"(?<![<>!:])=", plain):
        return True
    sides = [side.strip() for side in plain.split("=")]
    numeric = [side for side in sides if side and not re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", side))]
    return all(_squeezed(side) == _squeezed(numeric[-1]) or _same(side, numeric[-1]) for side in numeric[:-1])


def _balanced(answer: str) -> bool:
    """Do the braces match? math-verify would silently complete a cut-off answer."""
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", answer):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


def _same(gold: str, answer: str) -> bool:
    if shape(gold) and shape(answer) and shape(gold) != shape(answer):
        return False
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    # Errors are raised, not turned into False, so that the caller can tell "different" from "could not be compared".
    left, right = (
        parse(f"\\boxed{{{text}}}", extraction_config=config, parsing_timeout=None, raise_on_error=True)
        for text in (gold, answer)
    )
    if not left or not right or not verify(left, right, timeout_seconds=None, raise_on_error=False):
        return False
    return _close(left[0], right[0])


def _close(gold: Any, answer: Any) -> bool:
    """Numbers that math-verify took for equal (it rounds to 6 decimals) must also agree relatively: 1e-7 is not 2e-7."""
    numbers = [value for value in (gold, answer) if getattr(value, "is_number", False)]
    if len(numbers) < 2:
        return True
    # sympy's own numbers, which have no smallest exponent: 1/2004! and 1/2006! are both 0 as machine numbers
    return bool(abs(gold - answer).evalf() <= RELATIVE_TOLERANCE * max(abs(gold).evalf(), abs(answer).evalf()))


def warm() -> None:
    """Import the parser and build its tables."""
    equivalent("\\frac{1}{2}", "0.25")


def handle(request: dict[str, Any]) -> bool:
    """What a limited process does with {"gold", "answer"}."""
    return equivalent(request["gold"], request["answer"])
