"""MATH answers: what must be accepted and what must not, decided from the mathematics and not from the grader."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from s0.tasks.limited import LOOP
from s0.tasks.math_pool import HANDLER, MathPool
from s0.tasks.math_worker import shape

# (gold, answer): the same value, written differently
EQUAL = [
    # fractions, decimals, powers of ten
    (r"\frac{1}{2}", r"\dfrac{1}{2}"),
    (r"\frac12", "1/2"),
    (r"\frac{1}{2}", ".5"),
    (r"\frac{1}{2}", r"\frac{2}{4}"),
    (r"\frac{3}{2}", r"1\frac{1}{2}"),
    (r"2\frac{3}{4}", "2.75"),
    (r"-\frac{1}{3}", r"\frac{-1}{3}"),
    (r"\frac{1}{3}", r"0.\overline{3}"),
    (r"\frac{7}{12}", r"0.58\overline{3}"),
    (r"\frac{1}{3}", "0.333333"),
    ("1500", r"1.5\times10^3"),
    ("5", "5.0"),
    # thousands separators, currency, units, layout
    ("10000", "10,000"),
    ("10,000", "10000"),
    ("1{,}000", "1000"),
    (r"10,\!080", "10080"),
    ("1000000", "1,000,000"),
    (r"\$32,348", "32348"),
    ("32348", r"\$32,\!348"),
    ("18.90", r"\$18.90"),
    (r"90^\circ", "90"),
    ("90", r"90^{\circ}"),
    ("90", r"90\text{ degrees}"),
    ("5", r"5\text{ cm}^2"),
    ("5", r"5 \text{ square units}"),
    ("5", r"5\,\text{cm}"),
    ("3", "3 hours"),
    ("3", r"\text{3 hours}"),
    (r"8\pi", r"8\pi \text{ square inches}"),
    (r"70\sqrt{2}", r"70 \sqrt{2}\text{ ft}"),
    ("42", "$42$"),
    ("42", r"\(42\)"),
    ("42", "42."),
    ("42", r"\mathbf{42}"),
    ("-50", "- 50"),
    ("-50", "−50"),
    # percent
    (r"50\%", "50"),
    ("50", r"50\%"),
    (r"50\%", "0.5"),
    ("0.05", r"5\%"),
    (r"12.5\%", r"12.5 \%"),
    # roots, constants, functions
    (r"\sqrt2", r"\sqrt{2}"),
    (r"3\sqrt{13}", r"\sqrt{117}"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"\frac{\pi}{2}", r"\pi/2"),
    (r"2^{10}", "1024"),
    (r"\binom{5}{2}", "10"),
    ("10!", "3628800"),
    (r"\log_2 3", r"\frac{\ln 3}{\ln 2}"),
    ("6+9i", "9i+6"),
    # polynomials and equations
    ("x^2+2x+1", "(x+1)^2"),
    ("p - q", "-q+p"),
    ("y=2x+3", "2x+3"),
    ("2x+3", "y=2x+3"),
    ("5", "x=5"),
    # sets, lists, intervals, tuples, matrices
    (r"\{1,2\}", r"\{2,1\}"),
    ("1,2", "2, 1"),
    ("3,4", r"\{3,4\}"),
    (r"\pm 2", "2,-2"),
    (r"(-\infty, 3)\cup(5,\infty)", r"(5,\infty)\cup(-\infty,3)"),
    ("[1,2]", r"x\in[1,2]"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
    (r"\left[0,\frac12\right)", "[0, 0.5)"),
    (r"\emptyset", r"\varnothing"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
    # words and choices
    (r"\text{Evelyn}", "Evelyn"),
    (r"\text{Evelyn}", r"\text{evelyn}"),
    (r"\text{(C)}", "C"),
    (r"\text{(C)}", r"\textbf{(C)}"),
    ("C", r"\text{(C)}"),
    (r"\text{June 20}", "June 20"),
    ("2516_8", "2516_{8}"),
    ("2516_8", "2516"),
    # numbers side by side, equations and units that are right
    (r"10\,080", "10080"),
    ("10080", "10 080"),
    ("5.5", "5 1/2"),
    ("5", "3+2=5"),
    ("5", "y=x=5"),
    (r"3\text{ hours}", "3 hours"),
    (r"3\text{ hours}", "3"),
    ("3 ft", "3 feet"),
    (r"5\text{ ways}", r"5\text{ people}"),
]

# (gold, answer): different values, or no answer
DIFFERENT = [
    ("5", "6"),
    ("5", ""),
    ("5", "five is not written here"),
    ("50", "0.5"),
    ("-50", "50"),
    ("3.14", r"\pi"),
    (r"\frac{1}{3}", "0.3333"),
    (r"\frac{1}{3}", "0.33"),
    ("0.0000001", "0.0000002"),
    ("0", "0.0000001"),
    ("999999", "1000000"),
    ("1000000.1", "1000000.2"),
    (r"\frac{1}{10000000}", "0"),
    (r"\sqrt{2}", "1.414"),
    ("10", "10^2"),
    ("3", "3x"),
    ("2516_8", "2517_8"),
    (r"\infty", r"-\infty"),
    ("1+274i", "1-274i"),
    ("x^2", "y^2"),
    ("x=2", "y=2"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("(1,2]", "[1,2)"),
    ("(3,4,5)", "(3,4)"),
    ("(3,4)", "3,4"),
    ("3,4", "(3,4)"),
    (r"\{3,4\}", "(3,4)"),
    ("x=1,y=2", "(1,2)"),
    ("1,-2", "-2"),
    ("5", "5,6"),
    ("5,6", "5"),
    ("2", r"2 \text{ or } 3"),
    (r"17\text{ or }18", "17"),
    ("2", r"\pm2"),
    (r"\pm2", "2"),
    (r"(-\infty, 3)\cup(5,\infty)", r"(-\infty,3]\cup(5,\infty)"),
    (r"(-\infty,3)", r"(-\infty,3]"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"\left( 3, \frac{\pi}{2} \right)", "(3, 1.6)"),
    (r"\text{Evelyn}", r"\text{Briana}"),
    (r"\text{even}", r"\text{odd}"),
    (r"\text{(C)}", "B"),
    (r"\text{(C)}", r"\text{(A) or (C)}"),
    (r"50\%", "5"),
    (r"5\%", "0.5"),
    (r"\frac{1}{2}", r"\frac{1}{2"),
    ("12", r"\boxed{}"),
    # numbers side by side are two numbers
    ("11", "1 1"),
    ("23", "2 3"),
    ("56", r"5\,6"),
    # every side of an equation counts
    ("5", "6=5"),
    ("5", "x=6=5"),
    ("5", "4=x=5"),
    # values too small for a machine number
    ("1/2004!", "1/2006!"),
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
    ("10^{-400}", "10^{-401}"),
    # another unit, another base
    (r"3\text{ hours}", r"3\text{ minutes}"),
    ("50 cents", "50 dollars"),
    (r"10\%", r"10\text{ cm}"),
    ("3 ft", "3 inches"),
    ("101_2", "101_3"),
    ("101", "101_2"),
    ("52", "5*2"),
    ("1000", "1_000"),
    ("5", "5!"),
]


@pytest.fixture(scope="module")
def pool():
    pool = MathPool(limit_s=20.0, workers=2)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def table(pool):
    cases = EQUAL + DIFFERENT
    return dict(zip(cases, pool.compare(cases), strict=True))


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_answers_pass(table, gold, answer):
    assert table[gold, answer].kind == "pass", table[gold, answer]


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_answers_do_not_pass(table, gold, answer):
    assert table[gold, answer].kind in ("wrong", "error"), table[gold, answer]


def test_every_gold_equals_itself(pool):
    golds = sorted({gold for gold, _ in EQUAL + DIFFERENT})
    assert [g for g, r in zip(golds, pool.compare([(g, g) for g in golds]), strict=True) if r.kind != "pass"] == []


HANGS = ["9^{9^{9^{9}}}", "999999999!", r"\binom{10^{9}}{5\cdot 10^{8}}", r"\prod_{k=1}^{10^9} k", "(x+y+z)^{400}"]


@pytest.mark.parametrize("bomb", HANGS)
def test_attack_endless_computation_is_bounded(bomb):
    """The bomb never passes, and the same pool goes on comparing right afterwards."""
    pool = MathPool(limit_s=1.0, workers=1)
    try:
        assert pool.compare([("7", bomb)])[0].kind in ("timeout", "memory")
        pool.limit_s = 20.0
        assert [r.kind for r in pool.compare([("7", "7.0"), ("7", "8")])] == ["pass", "wrong"]
    finally:
        pool.close()


def test_time_limit_holds_in_a_thread():
    pool = MathPool(limit_s=1.0, workers=1)
    results = []
    thread = threading.Thread(target=lambda: results.extend(pool.compare([("7", HANGS[0])])))
    thread.start()
    thread.join(120)
    pool.close()
    assert [r.kind for r in results] == ["timeout"]


def test_an_orphaned_worker_ends_itself():
    """Nobody is left to kill it: the request's CPU timer does."""
    request = json.dumps({"gold": "7", "answer": HANGS[0], "limit": 0.1}) + "\n"
    command = [sys.executable, "-P", str(LOOP), str(HANDLER.path), str(HANDLER.memory_bytes)]
    done = subprocess.run(command, input=request.encode(), capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGPROF
    assert json.loads(done.stdout) == {"ready": True}


def test_attack_a_killed_worker_is_replaced(pool):
    assert pool.compare([("1", "1")])[0].kind == "pass"
    for worker in pool._idle:
        worker.process.kill()
    assert [r.kind for r in pool.compare([("2", "2.0"), ("2", "3")])] == ["pass", "wrong"]


def test_closing_leaves_no_process():
    pool = MathPool(limit_s=20.0, workers=2)
    pool.compare([("1", "2"), ("3", "3.0")])
    processes = [worker.process for worker in pool._idle]
    assert processes
    pool.close()
    deadline = time.monotonic() + 30
    while any(p.poll() is None for p in processes) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(p.poll() is not None for p in processes)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("(1,2)", "ordered"),
        ("[1,2)", "ordered"),
        (r"\{1,2\}", "unordered"),
        ("1,2", "unordered"),
        ("(1,2),(3,4)", "unordered"),
        ("5", ""),
        ("(x+1)^2", ""),
        (r"(1,2)\cup(3,4)", ""),
        (r"\frac{1}{2}", ""),
    ],
)
def test_shape(answer, expected):
    assert shape(answer) == expected
