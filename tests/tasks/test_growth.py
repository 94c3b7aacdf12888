"""Model-written text never costs this process more than linear time and memory, and is never compiled or parsed in it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from s0.sandbox import Sandbox
from s0.tasks import make_task
from s0.tasks.growth import BYTES_PER_CHARACTER, LINEAR, PROBLEMS, SIZES, Flood, floods, grade, measure, memory, steps
from s0.tasks.layout import HANDLER, body_layout
from s0.tasks.limited import Handler, LimitedPool

ROOT = Path(__file__).parents[2]
STEPS = dict(steps())
#: what once took seconds to hours: hedges and numbers in white space, blank lines, fences, unclosed tags
SEEN = [
    Flood(*parts)
    for parts in (
        ("#### 5", " ", "\ntext"), ("#### 5", " ", "x"), ("", "\n", "x"), ("", " ", "x"), ("", "9", "x"), ("", "1,", "x"),
        ("~~~", "~", "`"), ("```", " ", "`"), ("```", "a", "`"), ("", "<think>", ""), ("", "\\boxed", ""),
        ("", "\\boxed{", ""), ("#### ", "5 or ", ""), ("#### ", "1/", "x"), ("```\n", "\n", "SELECT 1"),
    )
]  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_floods_that_once_were_quadratic_or_cubic_are_linear(name):
    STEPS[name]("warm up")
    growths = {flood: measure(STEPS[name], flood) for flood in SEEN}
    assert {f: g for f, g in growths.items() if (g.exponent or 0) > LINEAR} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_growth_over_generated_floods_is_linear(name):
    STEPS[name]("warm up")
    steep = {flood: growth for flood in floods(1) if (growth := measure(STEPS[name], flood)).exponent}
    # A second look: a busy machine can make one measurement steep, a quadratic step is steep every time.
    steep = {f: g for f, g in steep.items() if g.exponent > LINEAR and measure(STEPS[name], f).exponent > LINEAR}
    assert steep == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_memory_over_generated_floods_is_linear(name):
    used = {flood: memory(STEPS[name], flood.text(SIZES[-1])) for flood in list(floods(1))[::6]}
    assert {f: n for f, n in used.items() if n > BYTES_PER_CHARACTER * SIZES[-1]} == {}


def test_the_measurement_sees_a_quadratic_step():
    def step(text):
        return sum(text[i:].count("\x01") for i in range(0, len(text), 8))

    assert measure(step, Flood("", "ab", "")).exponent > LINEAR
    assert memory(lambda text: [text[i:] for i in range(0, len(text), 8)], "a" * 8000) > 400 * 8000


@pytest.mark.slow
def test_growth_of_grading_in_the_sandbox_is_linear_here():
    """CPU time of this process alone: what the confined processes do is bounded by their limits."""
    task, problem = make_task("humaneval", {"grading_timeout_s": 2.0}), PROBLEMS["humaneval"]
    with Sandbox(workers=1) as sandbox:
        grade(task, problem, "    return x", sandbox)
        for flood in (Flood("    return 1", " ", "x"), Flood("    x = '", "a", "'"), Flood("    return ", "(", "")):
            assert (measure(lambda text: grade(task, problem, text, sandbox), flood).exponent or 0) <= LINEAR, flood


def nested_finally(levels: int) -> str:
    text, pad = "", "    "
    for _ in range(levels):
        text += f"{pad}try:\n{pad}    pass\n{pad}finally:\n"
        pad += "    "
    return f"{text}{pad}x = 1\n"


@pytest.mark.parametrize(
    "answer",
    [
        nested_finally(14), nested_finally(20), "    return " + "(" * 100_000, "    return " + "-" * 100_000 + "1",
        "    return " + "9" * 100_000, "    return 'a\0b'", "    return '\ud800'", "    return " + "[" * 190 + "]" * 190,
        "    return " + "x." * 50_000 + "y", "    return " + "1+" * 50_000 + "1", "lambda: " * 20_000 + "1", "if 1:\n" * 200,
    ],
    ids=lambda answer: f"{answer[:20].strip()!r} {len(answer)}",
)  # fmt: skip
def test_attack_code_that_breaks_compilers_is_cleaned(answer):
    """Nested `finally` takes 3 GB in `compile()`; the others recurse, crash or are refused. None is compiled here."""
    cleaned = make_task("humaneval").clean(PROBLEMS["humaneval"], answer)
    assert cleaned.strip() == answer.strip()


def test_nothing_compiles_or_parses_model_text_in_this_process():
    """`compile`, `exec`, `eval` and the parsers stand only in files that run confined or limited, or on own text."""
    confined = {"sandbox/candidate.py", "sandbox/serve.py", "sandbox/trial.py", "tasks/pycode.py"}
    allowed = confined | {"tiny/benchmark.py", "storage/keys.py"}  # these read the project's own code
    found = set()
    for path in (ROOT / "s0").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in ("compile", "exec", "eval", "ast.parse", "ast.literal_eval", "tokenize.generate_tokens"):
                    found.add(str(path.relative_to(ROOT / "s0")))
    assert found <= allowed
    assert HANDLER.path.name == "pycode.py"
    importers = [p for p in (ROOT / "s0").rglob("*.py") if "tasks.pycode import" in p.read_text(encoding="utf-8")]
    assert importers == []


HOSTILE = """
import os, signal
def handle(request):
    what = request["do"]
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "spin":
        while True: pass
    if what == "fill":
        return len(bytearray(1 << 34))
    if what == "recurse":
        return handle(request)
    if what == "print":
        print('{"value": "forged"}')
    return what
"""


@pytest.fixture
def pool(tmp_path):
    (tmp_path / "hostile.py").write_text(HOSTILE)
    pool = LimitedPool(Handler(tmp_path / "hostile.py", 1 << 30), 0.3, workers=1)
    yield pool
    pool.close()


@pytest.mark.parametrize(
    ("what", "kind"),
    [("crash", "error"), ("spin", "timeout"), ("fill", "memory"), ("recurse", "error"), ("print", "ok")],
)
def test_attack_on_the_limited_process_costs_that_process_only(pool, what, kind):
    replies = pool.map([{"do": what}, {"do": "fine"}])
    assert [reply.kind for reply in replies] == [kind, "ok"]
    assert replies[1].value == "fine"
    assert replies[0].value in (None, "print")


def test_layout_is_left_alone_where_it_cannot_be_told(monkeypatch, tmp_path):
    (tmp_path / "hostile.py").write_text("def handle(request):\n    raise MemoryError\n")
    pool = LimitedPool(Handler(tmp_path / "hostile.py", 1 << 30), 1.0, workers=1)
    monkeypatch.setattr("s0.tasks.layout._pool", lambda: pool)
    assert body_layout("def f(x):\n", "return x", "f") == "return x\n"
    pool.close()
