"""Tests of a program in the layouts data sets have, brought into the one form the sandbox runs.

Understood: `def check(candidate)` (HumanEval, HumanEval+, HumanEval-X and MultiPL-E in Python), assertions that call the function
by its name, as text or as a list (MBPP, MBPP+), a `unittest.TestCase` (BigCodeBench), and inputs with a reference solution
(the releases of evalplus). Tests over standard input and output, as most of LiveCodeBench's, are not: the judge calls functions.
"""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s0.data import canonical_json
from s0.errors import DataError

_DEF = re.compile(r"^(?:async[ \t]+)?def[ \t]+(\w+)[ \t]*\(", re.MULTILINE)
_CHECKED = re.compile(r"^[ \t]*check\((\w+)\)", re.MULTILINE)
_CALLED = re.compile(r"(?<![\w.])(\w+)\(")
_CASES = re.compile(r"^class[ \t]+(\w+)\((?:unittest\.)?TestCase\)", re.MULTILINE)

_RUN_CASES = """

def check(candidate):
    import unittest
    result = unittest.TestResult()
    for cases in ({names},):
        unittest.defaultTestLoader.loadTestsFromTestCase(cases).run(result)
    problems = result.failures + result.errors
    assert not problems, problems[0][1].strip().splitlines()[-1]
"""
# evalplus compares floats within 1e-6 where the data names no tolerance of its own
_RUN_INPUTS = """
import copy, json, math

_names = {{}}
exec({solution!r}, _names)


def _same(got, want, atol):
    if isinstance(want, float) and isinstance(got, (int, float)):
        return got == want or math.isclose(got, want, rel_tol=1e-7, abs_tol=atol or 1e-6) or (got != got and want != want)
    if isinstance(want, (list, tuple)) and isinstance(got, (list, tuple)) and type(got) is type(want):
        return len(got) == len(want) and all(_same(g, w, atol) for g, w in zip(got, want))
    if isinstance(want, dict) and isinstance(got, dict):
        return got.keys() == want.keys() and all(_same(got[k], want[k], atol) for k in want)
    return got == want


def check(candidate):
    for inputs in json.loads({inputs!r}):
        want = _names[{entry!r}](*copy.deepcopy(inputs))
        got = candidate(*inputs)
        assert _same(got, want, {atol!r}), (inputs, got, want)
"""


@dataclass(frozen=True)
class ProgramTest:
    """`header` goes before an answer that does not define the entry point itself (a function head with its docstring)."""

    header: str
    test: str
    entry_point: str

    def to_reference(self) -> str:
        return canonical_json([self.header, self.test, self.entry_point])

    @classmethod
    def from_reference(cls, text: str) -> ProgramTest:
        return cls(*json.loads(text))


def program_test(where: str, prompt: str, row: Mapping[str, Any]) -> ProgramTest:
    """The test of one row. `row` has `test` (text or list of texts) or `base_input` (with `plus_input`), and may have
    `entry_point`, `solution`, `setup` (code before the tests), `atol`. Raises DataError naming `where`."""
    solution = str(row.get("solution") or "")
    given = row.get("test")
    if given is None and row.get("base_input") is not None:
        entry = str(row.get("entry_point") or "")
        if not entry or not solution:
            raise DataError(
                f"{where}: inputs without test code need entry_point and a reference solution; add both columns"
            )
        header = prompt if re.search(rf"\bdef\s+{re.escape(entry)}\b", prompt) else ""
        whole = solution if re.search(rf"\bdef\s+{re.escape(entry)}\b", solution) else header + solution
        inputs = json.dumps([*row["base_input"], *(row.get("plus_input") or [])])
        test = _RUN_INPUTS.format(solution=whole, inputs=inputs, entry=entry, atol=float(row.get("atol") or 0))
        return ProgramTest(header, test, entry)
    test = _text(where, given)
    if row.get("setup"):
        test = f"{_text(where, row['setup'])}\n{test}"
    entry = str(row.get("entry_point") or _entry_point(where, prompt, test, solution))
    if not re.fullmatch(r"[^\W\d]\w*", entry):
        raise DataError(f"{where}: entry point {entry!r} is not the name of a function; correct the column")
    if cases := _CASES.findall(test):
        test += _RUN_CASES.format(names=", ".join(cases))
    elif entry not in test and "check(" not in test:
        raise DataError(f"{where}: the test neither defines check(candidate) nor calls {entry}; correct the row")
    return ProgramTest(prompt if entry in _DEF.findall(prompt) else "", test, entry)


def _text(where: str, value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, Sequence) and value and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    raise DataError(f"{where}: the test is {type(value).__name__}; it must be code, or a list of assertions")


def _entry_point(where: str, prompt: str, test: str, solution: str) -> str:
    """The function under test: what check is called with, what the prompt leaves open, else what the tests call."""
    if (checked := _CHECKED.findall(test)) and checked[-1] != "candidate":
        return str(checked[-1])
    if defined := _DEF.findall(prompt):
        return str(defined[-1])
    called = _CALLED.findall(test)
    for name in [*reversed(_DEF.findall(solution)), *called]:
        if name in called and not hasattr(builtins, name) and name not in ("assert", "check", *_DEF.findall(test)):
            return str(name)
    raise DataError(
        f"{where}: no function to test can be told from prompt, test and solution; add a column entry_point"
    )
