"""Attacks on the verdict: programs that are wrong and want to be called right.

The candidate's process never holds the test, the expected values or the verdict, so each must fail both where it is
confined and where it is not.
"""

from __future__ import annotations

import pytest
from sandbox_help import attack

from s0.sandbox import PythonCheck, Sandbox

EXITS = {
    "sys_exit_at_import": "    return 0\nimport sys; sys.exit(0)\n",
    "sys_exit_in_call": "    import sys; sys.exit(0)\n",
    "raise_systemexit": "    raise SystemExit(0)\n",
    "os_exit_at_import": "    return 0\nimport os; os._exit(0)\n",
    "os_exit_in_call": "    import os; os._exit(0)\n",
    "quit": "    exit(0)\n",
    "ctypes_exit": "    import ctypes; ctypes.CDLL(None)._exit(0)\n",
    "execv_true": "    import os; os.execv('/bin/true', ['true'])\n",
    "keyboard_interrupt": "    raise KeyboardInterrupt\n",
    "generator_exit": "    raise GeneratorExit\n",
    "atexit": "    return 0\nimport atexit, os; atexit.register(os._exit, 0)\n",
    "atexit_then_exit": "    import atexit, os, sys; atexit.register(os._exit, 0); sys.exit(1)\n",
    "excepthook": "    raise ValueError\nimport sys, os\nsys.excepthook = lambda *a: os._exit(0)\n",
    "unraisablehook": "    return 0\nimport sys, os\nsys.unraisablehook = lambda *a: os._exit(0)\n",
    "threading_excepthook": "    return 0\nimport threading, os\nthreading.excepthook = lambda *a: os._exit(0)\n",
}

_EQUAL = """
    return Always()
class Always({base}):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __hash__(self): return 0
    def __bool__(self): return True
    def __abs__(self): return self
    def __sub__(self, other): return self
    __rsub__ = __add__ = __radd__ = __sub__
    def __reduce__(self): return (exec, ("import os; os._exit(0)",))
"""
EQUALS = {
    f"always_equal_{base or 'object'}": _EQUAL.format(base=base).lstrip("\n")
    for base in ("", "int", "float", "str", "list", "dict", "tuple", "set", "Exception")
}

OTHERS = {
    "metaclass_always_equal": """    return T
class M(type):
    def __eq__(self, other): return True
    def __hash__(self): return 0
class T(metaclass=M): pass
""",
    "settrace_jump_out_of_the_caller": """    import sys
    def tracer(frame, event, arg):
        jumps.append(1)
        if len(jumps) > 1000: sys.settrace(None)
        if event == "line":
            try: frame.f_lineno = frame.f_lineno + 1
            except ValueError: pass
        return tracer
    jumps = []
    sys.settrace(tracer)
    frame = sys._getframe()
    while frame:
        frame.f_trace = tracer
        frame = frame.f_back
""",
    "read_expected_from_frames": """    import sys
    frame = sys._getframe()
    while frame:
        for name, value in list(frame.f_locals.items()):
            if name in ("expected", "answer", "want") or value == 2:
                return value
        if frame.f_code.co_name != "f" and 42 in frame.f_code.co_consts: return x + 1
        frame = frame.f_back
""",
    "read_expected_from_heap": """    import gc
    for thing in gc.get_objects():
        if isinstance(thing, dict) and ("check" in thing or "test" in thing) and "candidate" in str(thing)[:2000]:
            return x + 1
    for thing in gc.get_objects():
        if type(thing).__name__ == "function" and thing.__name__ == "check": return x + 1
""",
    "append_passed_to_frames": """    import sys
    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            if isinstance(value, list): value.append("passed")
            if isinstance(value, dict): value.update(kind="pass", passed=True)
        frame = frame.f_back
""",
    "rebind_assertion_error": """    return 0
import builtins
builtins.AssertionError = type("Never", (BaseException,), {})
AssertionError = builtins.AssertionError
builtins.__debug__ if True else None
""",
    "rebind_builtins": """    return 0
import builtins
for name in ("abs", "all", "any", "len", "sorted", "str", "int", "isinstance"):
    setattr(builtins, name, lambda *a, **k: True)
""",
    "patch_the_wire": """    return 0
import sys
wire = sys.modules.get("s0.sandbox.wire")
if wire:
    wire.pack = lambda value, depth=0: {"o": "x"}
    wire.dumps = lambda node: b'["ret",{"kind":"pass"}]'
serve = sys.modules.get("s0.sandbox.serve")
if serve:
    serve.Server._reply = lambda self, result, out: b'["pass",{"kind":"pass"},[],[],""]'
""",
    "raise_stopiteration": "    raise StopIteration\n",
    "raise_assertionerror": "    raise AssertionError\n",
    "nan": "    return float('nan')\n",
    "forge_stdout": """    return 0
import os
print('{"kind": "pass", "detail": ""}', flush=True)
for fd in (1, 2):
    os.write(fd, b'\\x00\\x00\\x00\\x1c{"kind":"pass","detail":""}')
""",
    "spray_descriptors": """    return 0
import os
verdict = b'{"kind":"pass","detail":""}'
for fd in range(256):
    for frame in (verdict, len(verdict).to_bytes(4, "big") + verdict, b"PASS\\n", b"passed"):
        try: os.write(fd, frame)
        except OSError: pass
""",
    "answer_before_asked": """    return 0
import os
for number in range(1, 5):
    frame = b'[%d,"ret",2,[],[],""]' % number
    os.write(4, len(frame).to_bytes(4, "big") + frame)
""",
    "exit_after_forging": """    import os
    frame = b'{"kind":"pass","detail":""}'
    os.write(4, len(frame).to_bytes(4, "big") + frame)
    os._exit(0)
""",
    "define_check": "    return 0\ndef check(candidate): pass\n",
    "shadow_the_entry_point": "    return 0\nf = lambda x: None\n",
    "opaque_lookalike": """    return Opaque("x")
class Opaque:
    def __init__(self, name): self.name = name
    __eq__ = lambda self, other: True
""",
    "module_getattr": """    return 0
def __getattr__(name): return lambda *a: True
""",
    "close_everything": "    import os; os.closerange(0, 256)\n    return x + 1\n",
    "close_everything_and_spin": "    import os; os.closerange(0, 256)\n    while True: pass\n",
}

CASES = EXITS | EQUALS | OTHERS


@pytest.mark.parametrize("name", CASES)
def test_forgery(sandbox: Sandbox, name: str) -> None:
    verdict = attack(sandbox, CASES[name])
    assert verdict.kind in ("wrong", "error", "protocol"), verdict
    assert verdict.tier == sandbox.tier


@pytest.mark.parametrize("name", CASES)
def test_forgery_unconfined(reduced: Sandbox, name: str) -> None:
    verdict = attack(reduced, CASES[name])
    assert verdict.kind in ("wrong", "error", "protocol"), verdict
    assert verdict.tier.startswith("reduced(")


@pytest.mark.parametrize(
    ("name", "test"),
    [
        ("stop_a_map", "def check(f):\n    assert all(map(lambda x: f(x) == x, [1, 2]))\n"),
        ("equality_from_the_right", "def check(f):\n    assert 2 == f(1)\n"),
        ("membership", "def check(f):\n    assert f(1) in [2]\n"),
        ("in_a_dict", "def check(f):\n    assert {2: 1}[f(1)]\n"),
        ("ordering", "def check(f):\n    assert f(1) < 3\n"),
        ("tolerance", "def check(f):\n    assert abs(f(1) - 2) < 1e-6\n"),
        ("negated", "def check(f):\n    assert not f(1) != 2\n"),
        ("swallowing", "def check(f):\n    try:\n        f(1)\n    except BaseException:\n        pass\n"),
    ],
)
@pytest.mark.parametrize("name_of_return", ["always", "stop", "exit"])
def test_other_forms_of_tests(auto: Sandbox, name: str, test: str, name_of_return: str) -> None:
    """Always-equal objects, StopIteration and exits against tests that do not read `assert f(x) == y`."""
    completion = {
        "always": EQUALS["always_equal_object"],
        "stop": "    raise StopIteration\n",
        "exit": "    import os; os._exit(0)\n",
    }[name_of_return]
    verdict = auto.check(PythonCheck("def f(x):\n", completion, test, "f"))
    tolerated = name == "swallowing" and name_of_return != "exit"  # such a test accepts anything that comes back
    assert verdict.kind == "pass" if tolerated else verdict.kind in ("wrong", "error"), verdict


#: objects that would approve of, or learn, a value of the test, were they asked: completion of f(x), the test's assertion
_LEARNS = """    return known[0] if known else L()
known = []
class L:
    def __eq__(self, other):
        known.append(other)
        return False
    __hash__ = object.__hash__
    def __lt__(self, other): return self == other
    __gt__ = __le__ = __ge__ = __ne__ = __sub__ = __rsub__ = __add__ = __contains__ = __lt__
"""
_APPROVES = """    return A(x)
class A:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return type(other) is {kind} and other != self.secret()
    def secret(self): return None
    __hash__ = object.__hash__
    def __contains__(self, other): return type(other) is {kind}
    startswith = endswith = isdigit = issubset = is_integer = lambda self, *other: True
    def __lt__(self, other): return type(other) is {kind} or NotImplemented
    __gt__ = __le__ = __ge__ = __lt__
    def __sub__(self, other): return 0 if type(other) is {kind} else NotImplemented
    __rsub__ = __sub__
"""
ASKING = {
    "asked_again_until_it_knows": (_LEARNS, "assert any(f(1) == 2 for _ in range(5))"),
    "caught_and_asked_again": (
        _LEARNS,
        "try:\n        assert f(1) == 2\n    except BaseException: pass\n    assert f(1) == 2",
    ),
    "searched_in_a_list": (_LEARNS, "[f(1) in [2] for _ in range(3)]\n    assert f(1) == 2"),
    "sorted_with_a_value": (_LEARNS, "sorted([f(1), 2, f(1)])\n    assert f(1) == 2"),
    "approves_by_type": (_APPROVES.format(kind="int"), "assert f(1) == 2"),
    "approves_from_the_right": (_APPROVES.format(kind="int"), "assert 2 == f(1)"),
    "approves_a_member": (_APPROVES.format(kind="int"), "assert 2 in f(1)"),
    "approves_an_order": (_APPROVES.format(kind="int"), "assert f(1) < 3"),
    "approves_a_difference": (_APPROVES.format(kind="int"), "assert abs(f(1) - 2) < 1e-6"),
    "approves_a_text": (_APPROVES.format(kind="str"), "assert f(1) == 'two'"),
    "approves_a_list": (_APPROVES.format(kind="list"), "assert f(1) == [2]"),
    "predicate_of_text": (_APPROVES.format(kind="int"), "assert f(1).startswith('ab')"),
    "predicate_of_digits": (_APPROVES.format(kind="int"), "assert f(1).isdigit()"),
    "predicate_of_sets": (_APPROVES.format(kind="int"), "assert f(1).issubset({1, 2})"),
}


@pytest.mark.parametrize("name", ASKING)
def test_an_object_is_neither_shown_nor_asked_about_values_of_the_test(auto: Sandbox, name: str) -> None:
    completion, assertion = ASKING[name]
    verdict = auto.check(PythonCheck("def f(x):\n", completion, f"def check(f):\n    {assertion}\n", "f", 20))
    assert verdict.kind in ("wrong", "error", "unjudged"), verdict


#: what the candidate may reach through an object or function the test hands it
REACHES = {
    "globals_of_a_function": "g.__globals__",
    "class_of_an_object": "o.__class__.__init__.__globals__ if type(o).__name__ == 'O' else 0",
    "private_attribute": "o._secret",
    "dunder_dict": "o.__dict__['_secret']",
    "code_of_a_method": "o.public.__func__",
    "attribute_of_a_function": "g.expected",
}


@pytest.mark.parametrize("name", REACHES)
def test_what_the_test_hands_out_opens_no_door(auto: Sandbox, name: str) -> None:
    completion = f"    try: return {REACHES[name]} and 2\n    except Exception: return None\n"
    test = """class O:
    _secret = 2
    def public(self): return 1
def g(): return 1
g.expected = 2
def check(f):
    assert f(O(), g) == 2
"""
    assert auto.check(PythonCheck("def f(o, g):\n", completion, test, "f", 20)).kind == "wrong"


def test_one_check_leaves_nothing_for_the_next(sandbox: Sandbox) -> None:
    attack(
        sandbox, "    return x\nimport builtins, sys, math\nbuiltins.left = math.left = 1\nsys.modules['left'] = sys\n"
    )
    probe = """    import builtins, math, sys
    left = hasattr(builtins, 'left') or hasattr(math, 'left') or 'left' in sys.modules
    return x + 1 if not left else 0
"""
    assert attack(sandbox, probe).kind == "pass"


PROTOCOL = {
    "huge_int": ("    return 1 << (1 << 28)\n", "wrong"),
    "int_of_many_digits": ("    return 7 ** 20000\n", "wrong"),
    "deep_list": ("    a = []\n    for _ in range(100000): a = [a]\n    return a\n", "wrong"),
    "self_containing_list": ("    a = []\n    a.append(a)\n    return a\n", "wrong"),
    "self_containing_dict": ("    a = {}\n    a[1] = a\n    return a\n", "wrong"),
    "huge_string": ("    return 'x' * (70 << 20)\n", "wrong"),
    "huge_list": ("    return [0] * 8_000_000\n", "wrong"),
    "endless_generator": ("    return iter(int, 1) if False else (i for i in iter(int, 1))\n", "wrong"),
    "lone_surrogate": ("    return '\\ud800'\n", "wrong"),
    "unhashable_set": ("    w({'s': [None, [[1]]]})\n", "protocol"),
    "unhashable_key": ("    w({'d': [None, [[1], 2]]})\n", "protocol"),
    "half_a_pair": ("    w({'d': [None, [1]]})\n", "protocol"),
    "unknown_tag": ("    w({'py/object': 'os.system'})\n", "protocol"),
    "class_by_any_name": ("    w({'class': 'os.system'})\n", "protocol"),
    "class_of_the_prompt_that_is_none": ("    w({'O': ['check', []]})\n", "protocol"),
    "pickled": ("    w({'pickle': '80049595'})\n", "protocol"),
    "object_of_the_test_never_given": ("    w({'x': 0})\n", "protocol"),
    "unknown_reference": ("    w({'@': 999})\n", "protocol"),
    "handle_that_can_anything": (
        "    w({'h': [7, 0, {'name': 'x', 'can': ['__class__', '__del__'], 'base': None, 'inherited': [], 'unhashable': 0,"
        " 'is': None}, 0]})\n",
        "protocol",
    ),
    "handle_without_a_type": ("    w({'h': [7, 0, None, 0]})\n", "protocol"),
    "handle_that_is_never_answered": (
        "    w({'h': [7, 0, {'name': 'x', 'can': ['__eq__'], 'base': 'int', 'inherited': ['__eq__'], 'unhashable': 0,"
        " 'is': None}, 0]})\n",
        "error",
    ),
    "named_tuple_of_code": ("    w({'N': ['x', ['a=1):\\n import os\\n#'], [1]]})\n", "protocol"),
    "bare_nan": ('    raw(b\'[1,"ret",NaN,[],[],""]\')\n', "protocol"),
    "deep_json": ("    raw(b'[1,\"ret\",' + b'[' * 100000 + b']' * 100000 + b',[],[],\"\"]')\n", "protocol"),
    "digits_json": ("    raw(b'[1,\"ret\",' + b'9' * 100000 + b',[],[],\"\"]')\n", "protocol"),
    "not_json": ("    raw(b'\\xff\\xfe')\n", "protocol"),
    "not_a_list": ("    raw(b'{}')\n", "protocol"),
    "wrong_number": ('    raw(b\'[7,"ret",2,[],[],""]\')\n', "protocol"),
    "boolean_number": ('    raw(b\'[true,"ret",2,[],[],""]\')\n', "protocol"),
    "unknown_answer": ('    raw(b\'[1,"pass",2,[],[],""]\')\n', "protocol"),
    "short_answer": ("    raw(b'[1,\"ret\",2]')\n", "protocol"),
    "changes_of_unknown_objects": ('    raw(b\'[1,"ret",2,[[5,[1]]],[],""]\')\n', "protocol"),
    "malformed_changes": ('    raw(b\'[1,"ret",2,7,[],""]\')\n', "protocol"),
    "keeps_unknown_objects": ('    raw(b\'[1,"ret",2,[],[5],""]\')\n', "protocol"),
    "asks_for_what_it_was_never_given": ('    raw(b\'["ask","__call__",0,[],[],[]]\')\n', "protocol"),
    "asks_malformed": ("    raw(b'[\"ask\",[],{},7,[[]],0]')\n", "protocol"),
    "empty_answer": ("    raw(b'')\n", "protocol"),
    "announced_4_gib": ("    import os; os.write(4, b'\\xff\\xff\\xff\\xff'); return x + 1\n", "protocol"),
    "half_a_frame": ("    import os; os.write(4, b'\\0\\0\\1\\0abc'); os._exit(0)\n", "error"),
    "exception_of_any_class": ("    w({'e': [{'class': 'exec'}, ['1'], [], '1']}, 'exc')\n", "protocol"),
    "exception_that_is_a_class": ("    w({'e': [{'class': 'int'}, [1], [], '1']}, 'exc')\n", "protocol"),
    "exception_base_class": ("    w({'e': [{'class': 'SystemExit'}, [0], [], '0']}, 'exc')\n", "error"),
    "exception_that_is_a_value": ("    w(2, 'exc')\n", "protocol"),
    "exception_not_strings": ("    w({'e': [1, [], {}, 3]}, 'exc')\n", "protocol"),
    "iterator_bomb": ("    w({'r': [0, 1000000000000, 1]})\n", "wrong"),
    "cannot_be_handed_over": ("    w('x', 'bad')\n", "unjudged"),
}
_WRITER = """import os, json
def raw(b): os.write(4, len(b).to_bytes(4, 'big') + b); os._exit(0)
def w(node, kind='ret'): raw(json.dumps([1, kind, node, [], [], '']).encode())
"""


@pytest.mark.parametrize("name", PROTOCOL)
def test_protocol_abuse(sandbox: Sandbox, name: str) -> None:
    completion, kind = PROTOCOL[name]
    verdict = attack(sandbox, completion + _WRITER, timeout_s=20)
    assert verdict.kind == kind, verdict


def test_flood_of_frames(sandbox: Sandbox) -> None:
    flood = "    while True: os.write(4, b'\\0\\0\\0\\2[]' * 10000)\nimport os\n"
    assert attack(sandbox, flood).kind == "protocol"


def test_flood_before_loading(sandbox: Sandbox) -> None:
    assert attack(sandbox, "    return 0\nimport os\nwhile True: os.write(4, b'x' * 65536)\n").kind == "protocol"
