"""Are two mathematical answers equal? Runs as a process of its own, because an answer can make a computer algebra system
loop for ever or fill the memory; `s0.tasks.math_pool` starts, feeds and kills it.

This file imports nothing of the project, so that the process starts fast and holds no model.
Protocol: one JSON object {"gold", "answer", "limit"} per line on stdin, one {"equal"} or {"error", "kind"} per line back.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import sys
from fractions import Fraction
from typing import Any

MEMORY_BYTES = 3 << 30
MAX_LENGTH = 2000
#: relative difference up to which a decimal stands for an exact value (0.333333 for 1/3)
RELATIVE_TOLERANCE = 2e-6

_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\[,;:!> ]|\\q?quad|~")
_DELIMITERS = re.compile(r"\\left\s*(?=[(\[{|.\\])|\\right\s*(?=[)\]}|.\\])|\\[bB]igg?[lr]?\s*(?=[()\[\]\\|])")
_REPEATING = re.compile(r"(?<![\d.])(\d*)\.(\d*)\\overline\s*\{(\d+)\}")
_PERCENT = re.compile(r"\s*(?:\\?%|\bpercent\b)\s*$")
_UNIT_WORDS = re.compile(
    r"(?<=[\d\s})])\s*(?:(?:square|cubic|sq\.?)\s+)?(?:degrees?|units?|dollars?|cents?|inch(?:es)?|feet|foot|ft|yards?|miles?|"
    r"mph|cm|mm|km|m|meters?|centimeters?|kilometers?|kg|grams?|pounds?|hours?|minutes?|seconds?|days?|weeks?|months?|"
    r"years?|students?|people|ways|points?|sides?)(?:\s*\^\s*\{?[23]\}?)?\s*$",
    re.IGNORECASE,
)


def normalise(answer: str) -> str:
    """`answer` without layout: dollar signs, spacing commands, \\left/\\right, text wrappers, trailing units and period."""
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
    answer = re.sub(r"\s+", " ", answer).strip().rstrip(".").strip()
    if re.search(r"\d", answer):
        answer = _UNIT_WORDS.sub("", answer).strip()
    # Digits grouped in threes are one number, but only where the whole answer is that number: "1,200" yes, "(1,200)" no.
    if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?:\s*\\?%)?", answer):
        answer = answer.replace(",", "")
    return answer


def _repeating(match: re.Match[str]) -> str:
    whole, fixed, period = match[1] or "0", match[2], match[3]
    value = Fraction(int(whole + fixed + period) - int(whole + fixed), 10 ** len(fixed) * (10 ** len(period) - 1))
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


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
    and 0.5. A list in parentheses or brackets never equals one without or in braces.
    """
    if len(answer) > MAX_LENGTH or not answer.strip() or not _balanced(answer):
        return False
    text = is_text(gold)
    plain_gold, plain = normalise(gold), normalise(answer)
    if text or plain_gold.replace(" ", "") == plain.replace(" ", ""):
        return bool(words(plain_gold)) and words(plain_gold) == words(plain) if text else True
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
    left, right = complex(gold.evalf()), complex(answer.evalf())
    return abs(left - right) <= RELATIVE_TOLERANCE * max(abs(left), abs(right))


def main() -> None:
    """Answer requests until stdin closes. Every request runs under an alarm that kills the process when nobody else does."""
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reply_fd = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    equivalent("\\frac{1}{2}", "0.25")  # imports and warms the parser before the first clock starts
    _reply(reply_fd, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["limit"] + 1.0)
        try:
            reply: dict[str, Any] = {"equal": equivalent(request["gold"], request["answer"])}
        except MemoryError:
            reply = {"kind": "memory", "error": "out of memory"}
        except RecursionError:
            reply = {"kind": "error", "error": "nested too deeply"}
        except Exception as error:  # any failure inside the algebra system is the answer's, and goes into its verdict
            reply = {"kind": "error", "error": f"{type(error).__name__}: {error}"[:200]}
        signal.setitimer(signal.ITIMER_REAL, 0)
        _reply(reply_fd, reply)


def _reply(fd: int, value: dict[str, Any]) -> None:
    os.write(fd, (json.dumps(value) + "\n").encode())


if __name__ == "__main__":
    main()
