"""HumanEval: the real problems, layout repair that never changes a program, and real grading."""

from __future__ import annotations

import ast
import textwrap

import pytest

from s0.config.registry import TASKS
from s0.errors import ConfigError, DataError, SandboxError
from s0.sandbox import Sandbox
from s0.tasks import make_task
from s0.tasks.base import GradingItem
from s0.tasks.pycode import body_indent, function_body

PROMPT = 'def f(x):\n    """Doc."""\n'


@pytest.fixture(scope="module")
def task():
    return make_task("humaneval")


@pytest.fixture(scope="module")
def rows(task):
    return {row["task_id"]: row for row in task.read_rows()}


def all_problems(task):
    return task.problems("train") + task.problems("heldout")


def test_published_split(task):
    assert [p.id for p in task.problems("train")] == [f"HumanEval/{i}" for i in range(80)]
    assert [p.id for p in task.problems("heldout")] == [f"HumanEval/{i}" for i in range(80, 164)]


def test_user_turn_is_instruction_and_prompt(task):
    (message,) = task.messages(task.problems("train")[0])
    assert message["role"] == "user"
    assert message["content"].startswith("Complete the following Python function.")
    assert message["content"].endswith(task.problems("train")[0].prompt)


FORMS = {
    "as written": lambda prompt, body: body,
    "stripped": lambda prompt, body: body.strip(),
    "dedented": lambda prompt, body: textwrap.dedent(body),
    "indented twice": lambda prompt, body: textwrap.indent(body, "    "),
    "fenced": lambda prompt, body: f"```python\n{body}```",
    "fenced and dedented": lambda prompt, body: f"```\n{textwrap.dedent(body)}\n```",
    "after thinking": lambda prompt, body: f"<think>\n\n</think>\n\n{body}",
    "carriage returns": lambda prompt, body: body.replace("\n", "\r\n"),
    "trailing space": lambda prompt, body: "\n\n" + body + "\n   \n",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_layout_of_every_canonical_solution_is_the_same_program(task, rows, form):
    for problem in all_problems(task):
        body = rows[problem.id]["canonical_solution"]
        expected = ast.dump(ast.parse(problem.prompt + body))
        cleaned = task.clean(problem, FORMS[form](problem.prompt, body))
        assert ast.dump(ast.parse(problem.prompt + cleaned)) == expected, problem.id


def test_restated_functions_are_used_as_they_are(task, rows):
    for problem in all_problems(task):
        whole = problem.prompt + rows[problem.id]["canonical_solution"]
        for text in (whole, f"Sure:\n```python\n{whole}\n```\nDone.", textwrap.indent(whole, "  ")):
            tree = ast.parse(problem.prompt + task.clean(problem, text))
            names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
            assert names.count(problem.meta["entry_point"]) == 2, problem.id


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("    return x", "    return x\n"),
        ("return x", "    return x\n"),
        ("        return x", "    return x\n"),
        ("if x:\n        return 1\n    return 2", "    if x:\n        return 1\n    return 2\n"),
        ("if x:\n    return 1\nreturn 2", "    if x:\n        return 1\n    return 2\n"),
        ("for i in x:\n    y = i\n    return y", "    for i in x:\n        y = i\n        return y\n"),
        ("y = 1\n    return y", "    y = 1\n    return y\n"),
        ("def f(x):\n    return x", "def f(x):\n    return x\n"),
        ("    def f(x):\n        return x", "def f(x):\n    return x\n"),
        ("f = lambda x: x", "f = lambda x: x\n"),
        ("import math\ndef f(x):\n    return math.pi", "import math\ndef f(x):\n    return math.pi\n"),
        ("def g(x):\n    return x\nreturn g(x)", "    def g(x):\n        return x\n    return g(x)\n"),
        ("    return g(x)\n\ndef g(x):\n    return x", "    return g(x)\n\ndef g(x):\n    return x\n"),
        ('return """a\n  b"""', '    return """a\n  b"""\n'),
        ("return (1 +\n    2)", "    return (1 +\n        2)\n"),
        ("# comment\nreturn x", "    # comment\n    return x\n"),
        ("", ""),
        ("\n  \n", ""),
        # not repaired: these fail as what they are
        ("The function returns x.", "The function returns x.\n"),
        ("return x\n\nThis returns x.", "return x\n\nThis returns x.\n"),
        ("def f(x):\nreturn x", "def f(x):\nreturn x\n"),
        ("    if x:\n    return 1", "    if x:\n    return 1\n"),
        ("return x +", "return x +\n"),
    ],
)
def test_layout_repair(answer, expected):
    assert function_body(PROMPT, answer, "f") == expected


def test_repair_keeps_string_values():
    answer = 'y = """first\nsecond\n    third"""\nreturn y'
    namespace: dict = {}
    exec(PROMPT + function_body(PROMPT, answer, "f"), namespace)
    assert namespace["f"](0) == "first\nsecond\n    third"


def test_body_indent_follows_the_prompt():
    assert body_indent('def f(x):\n  """Doc."""\n') == "  "
    assert body_indent('def f(x):\n\t"""Doc."""\n') == "\t"
    assert body_indent("not python at all (") == "    "
    assert function_body('def f(x):\n  """Doc."""\n', "return x", "f") == "  return x\n"


def test_attack_unparsable_floods_stay_as_they_are():
    for answer in ("(" * 5000, "x=" * 5000 + "1", "\0", "    " * 2000 + "return 1", "if 1:\n" * 200):
        assert isinstance(function_body(PROMPT, answer, "f"), str)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1) as sandbox:
        yield sandbox


def test_real_grading_tells_right_from_wrong(task, rows, sandbox):
    problem = task.problems("train")[0]
    right = rows[problem.id]["canonical_solution"]
    texts = [right, right.strip(), f"```python\n{problem.prompt}{right}```", "    return None", "return", "", "prose only",
             "    import sys; sys.exit(0)", "    while True: pass"]  # fmt: skip
    verdicts = task.grade_many([GradingItem(problem, text) for text in texts], sandbox)
    assert [v.passed for v in verdicts] == [True] * 3 + [False] * 6
    assert verdicts[-1].kind == "timeout"


def test_indentation_repair_never_makes_a_wrong_program_pass(task, rows, sandbox):
    """The repaired form of a program that is wrong with right layout is just as wrong."""
    items = []
    for problem in task.problems("train")[:10]:
        for wrong in ("    return None\n", "    return 0\n", "    pass\n", "    x = 1\n    return []\n"):
            items += [GradingItem(problem, form(problem.prompt, wrong)) for form in FORMS.values()]
    assert [v for v in task.grade_many(items, sandbox) if v.passed] == []


def test_no_sandbox_is_an_error_not_a_score(task):
    with pytest.raises(SandboxError, match="never without"):
        task.grade(task.problems("train")[0], "return 1", None)


def test_counts_and_limits():
    task = make_task("humaneval", {"n_train": 3, "n_eval": 2})
    assert [p.id for p in task.problems("train")] == ["HumanEval/0", "HumanEval/1", "HumanEval/2"]
    assert [p.id for p in task.problems("heldout")] == ["HumanEval/80", "HumanEval/81"]
    assert task.dataset_hash() != make_task("humaneval").dataset_hash()
    with pytest.raises(ConfigError, match=r"task.n_eval=85: this part of humaneval has 84 problems; choose 1..84"):
        make_task("humaneval", {"n_eval": 85}).problems("heldout")


def test_published_cleaning_loses_the_first_indentation(task, rows, sandbox):
    """What the published evaluation scores: a restated function passes, the bare body the prompt asks for does not."""
    published = make_task("humaneval", {"match": "published"})
    problem = task.problems("train")[0]
    body = rows[problem.id]["canonical_solution"]
    texts = [
        body,
        f"```python\n{problem.prompt}{body}\n```",
        problem.prompt + body,
        f"<think>x</think>{problem.prompt}{body}",
    ]
    items = [GradingItem(problem, text) for text in texts]
    assert [v.passed for v in published.grade_many(items, sandbox)] == [False, True, True, True]
    assert [v.passed for v in task.grade_many(items, sandbox)] == [True] * 4
    assert all(v.detail.startswith("published cleaning") for v in published.grade_many(items, sandbox))
    assert published.grading != task.grading


@pytest.mark.parametrize("name", TASKS)
def test_unknown_match_lists_the_choices(name):
    with pytest.raises(ConfigError, match=r"task\.match='fuzzy'.*choices: official"):
        make_task(name, {"match": "fuzzy"})


@pytest.mark.parametrize("value", [0, -1, True, "5", 1.5])
def test_bad_counts_are_config_errors(value):
    with pytest.raises(ConfigError, match=r"task\.n_train"):
        make_task("humaneval", {"n_train": value})


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "soon"])
def test_bad_timeouts_are_config_errors(value):
    with pytest.raises(ConfigError, match=r"task\.grading_timeout_s"):
        make_task("humaneval", {"grading_timeout_s": value})


def test_unknown_task_lists_the_choices():
    with pytest.raises(ConfigError) as caught:
        make_task("humanevil", {})
    assert all(name in str(caught.value) for name in TASKS)
    assert "\n" not in str(caught.value)


def test_local_file_in_the_same_format(tmp_path, rows):
    import json

    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(dict(row)) + "\n" for row in list(rows.values())[:6]))
    task = make_task("humaneval", {"path": str(file)})
    assert [len(task.problems("train")), len(task.problems("heldout"))] == [3, 3]
    assert "rows 0-2 train, 3-5 held out" in task.source
    file.write_text('{"task_id": "a", "prompt": "p"}\n')
    with pytest.raises(DataError, match="no column 'entry_point'"):
        make_task("humaneval", {"path": str(file)}).problems("train")
