"""Programs with nothing to hide must pass: a sandbox that fails good code is as wrong as one that passes bad code."""

from __future__ import annotations

import collections

import pytest
from sandbox_help import increment

from s0.sandbox import PythonCheck, Sandbox

COMMON_MODULES = """abc argparse array ast asyncio base64 bisect bz2 calendar cmath collections concurrent.futures
contextlib copy csv ctypes dataclasses datetime decimal difflib enum fractions functools glob hashlib heapq html
http.client inspect io itertools json keyword logging lzma math multiprocessing numbers operator os pathlib pickle pprint
queue random re secrets select shutil signal socket sqlite3 ssl statistics string struct subprocess sys tempfile textwrap
threading time timeit traceback types typing unicodedata unittest urllib.request uuid warnings weakref
xml.etree.ElementTree zipfile zlib zoneinfo""".split()  # noqa: SIM905

HONEST = {
    "prints": "    print('working', x)\n    import sys; print('err', file=sys.stderr)\n    return x + 1\n",
    "logs": "    import logging; logging.warning('adding')\n    return x + 1\n",
    "helper_below": "    return helper(x)\ndef helper(x):\n    return x + 1\n",
    "helper_class": "    return Adder().add(x)\nclass Adder:\n    def add(self, x): return x + 1\n",
    "redefines_itself": "    pass\n\ndef f(x):\n    return x + 1\n",
    "main_guard": "    return x + 1\nif __name__ == '__main__':\n    print(f(input()))\n",
    "asserts_at_import": "    return x + 1\nassert f(2) == 3\n",
    "dataclass": "    return P(x).x + 1\nimport dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\n",
    "named_tuple": "    return P(x).x + 1\nimport typing\nclass P(typing.NamedTuple):\n    x: int\n",
    "int_enum": "    return N(x + 1)\nimport enum\nclass N(enum.IntEnum):\n    A = 2\n    B = 42\n",
    "bool_arithmetic": "    return x + True\n",
    "fraction_to_int": "    from fractions import Fraction\n    return int(Fraction(x) + 1)\n",
    "own_int_subclass": "    return I(x + 1)\nclass I(int): pass\n",
    "global_state": "    global n\n    n += 1\n    return x + 1\nn = 0\n",
    "cache": "    return g(x)\nimport functools\n@functools.lru_cache(None)\ndef g(x): return x + 1\n",
    "recursion": "    return x + 1 if x < 3 else f(x - 1) + 1\n",
    "deep_recursion": "    return g(900) - 900 + x + 1\ndef g(n): return n and g(n - 1) + 1\n",
    "thread_left_behind": (
        "    import threading, time\n    threading.Thread(target=time.sleep, args=(600,)).start()\n    return x + 1\n"
    ),
    "thread_pool": (
        "    from concurrent.futures import ThreadPoolExecutor\n"
        "    with ThreadPoolExecutor(8) as pool: return sum(pool.map(lambda i: i, [x, 1]))\n"
    ),
    "asyncio_run": (
        "    import asyncio\n    async def g():\n        await asyncio.sleep(0.001)\n        return x + 1\n"
        "    return asyncio.run(g())\n"
    ),
    "alarm": """    import signal
    signal.signal(14, lambda *a: None)
    signal.alarm(1)
    signal.alarm(0)
    return x + 1
""",
    "raise_and_catch": "    try: raise KeyError(x)\n    except KeyError as e: return e.args[0] + 1\n",
    "signal_to_oneself": "    import signal\n    signal.signal(10, lambda *a: None); signal.raise_signal(10)\n    return x + 1\n",
    "exec_and_eval": "    ns = {}\n    exec('y = 1', ns)\n    return eval('x + y', {'x': x, 'y': ns['y']})\n",
    "sqlite_in_memory": """    import sqlite3
    return sqlite3.connect(':memory:').execute('select ? + 1', (x,)).fetchone()[0]
""",
    "subprocess_not_needed": "    import subprocess, multiprocessing, socket\n    return x + 1\n",
    "time_zone": """    from zoneinfo import ZoneInfo
    import datetime
    datetime.datetime(2020, 1, 1, tzinfo=ZoneInfo('UTC'))
    return x + 1
""",
    "locale_and_time": "    import time, locale\n    time.strftime('%c'); locale.getlocale()\n    return x + 1\n",
    "cpu_count": "    import os, platform\n    os.cpu_count(); os.getcwd(); platform.system()\n    return x + 1\n",
    "random_numbers": """    import random, secrets, uuid, os
    random.random(); secrets.token_hex(); uuid.uuid4(); os.urandom(4)
    return x + 1
""",
    "pickle_own_class": """    import pickle
    return pickle.loads(pickle.dumps(P(x))).x + 1
class P:
    def __init__(self, x): self.x = x
""",
    "big_but_allowed": "    a = bytearray(100 << 20)\n    return x + 1\n",
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_program_passes(sandbox: Sandbox, name: str) -> None:
    verdict = sandbox.check(increment(HONEST[name]))
    assert verdict.kind == "pass", verdict


def test_imports_common_modules(sandbox: Sandbox) -> None:
    assert len(COMMON_MODULES) >= 45
    checks = [increment(f"    import {name}\n    return x + 1\n", timeout_s=20) for name in COMMON_MODULES]
    failed = {n: v.detail for n, v in zip(COMMON_MODULES, sandbox.map(checks), strict=True) if v.kind != "pass"}
    assert not failed


VALUES = [
    "None",
    "True",
    "0",
    "-1",
    "2**62",
    "2**63",
    "-2**200",
    "1.5",
    "-0.0",
    "1e308",
    "float('inf')",
    "''",
    "'h\\u00e9\\n\\0'",
    "'\\ud800\\U0001f600'",
    "b'\\x00\\xff'",
    "bytearray(b'ab')",
    "1+2j",
    "[]",
    "[1, [2.5, 'x'], None]",
    "()",
    "(1,)",
    "((), [()])",
    "{}",
    "{'a': [1, (2, 3)], 4: None, (1, 2): 'k'}",
    "set()",
    "{1, 'a', (2,)}",
    "frozenset({1})",
    "range(1, 9, 2)",
    "[True, 1, 1.0]",
    "[10**400]",
    "{'i': 1}",
    "{'t': [1]}",
]


@pytest.mark.parametrize("text", VALUES)
def test_values_come_back_exactly(auto: Sandbox, text: str) -> None:
    """Equal and of the same types all the way down (repr tells -0.0 from 0.0 and True from 1)."""
    test = f"def check(f):\n    v = f({text})\n    assert v == {text} and repr(v) == repr({text}), repr(v)\n"
    verdict = auto.check(PythonCheck("def f(x):\n", "    return x\n", test, "f"))
    assert verdict.kind == "pass", verdict


@pytest.mark.parametrize(
    ("made", "plain"),
    [
        ("collections.Counter('aab')", "{'a': 2, 'b': 1}"),
        ("collections.OrderedDict(a=1)", "{'a': 1}"),
        ("collections.defaultdict(int, a=1)", "{'a': 1}"),
        ("collections.namedtuple('P', 'x y')(1, 2)", "(1, 2)"),
        ("enum.IntEnum('E', 'A')['A']", "1"),
        ("type('S', (str,), {})('abc')", "'abc'"),
        ("type('L', (list,), {})([1, 2])", "[1, 2]"),
        ("type('F', (float,), {})(1.5)", "1.5"),
    ],
)
def test_subclasses_compare_like_their_base(auto: Sandbox, made: str, plain: str) -> None:
    assert isinstance(collections.Counter(), dict)
    check = PythonCheck(
        "import collections, enum\ndef f():\n",
        f"    return {made}\n",
        f"def check(f):\n    assert f() == {plain}\n",
        "f",
    )
    assert auto.check(check).kind == "pass"


@pytest.mark.parametrize("made", ["(i for i in 'ab')", "map(str, 'ab')", "iter(['a', 'b'])", "reversed(['b', 'a'])"])
def test_iterators_can_be_consumed(auto: Sandbox, made: str) -> None:
    good = "def check(f):\n    assert list(f()) == ['a', 'b']\n"
    assert auto.check(PythonCheck("def f():\n", f"    return {made}\n", good, "f")).kind == "pass"
    bad = "def check(f):\n    assert f() == ['a', 'b']\n"
    assert auto.check(PythonCheck("def f():\n", f"    return {made}\n", bad, "f")).kind == "wrong"


def test_keyword_arguments_and_expected_exceptions(auto: Sandbox) -> None:
    test = """
def check(f):
    assert f(a=1, b=2) == 3
    try:
        f(1, "x")
    except TypeError as exc:
        assert "int" in str(exc)
    else:
        raise AssertionError("no TypeError")
"""
    assert auto.check(PythonCheck("def f(a, b):\n", "    return a + b\n", test, "f")).kind == "pass"


def test_the_same_program_gets_the_same_verdict() -> None:
    """String hashes and the random module start equally in every worker."""
    order = PythonCheck(
        "import random\ndef f():\n",
        "    return [list({'a', 'b', 'c', 'd', 'e'}), random.random()]\n",
        "def check(f):\n    assert f() == 0, repr(f())\n",
        "f",
    )
    details = set()
    for _ in range(2):
        with Sandbox(workers=1) as sandbox:
            details.add(sandbox.check(order).detail)
    assert len(details) == 1
