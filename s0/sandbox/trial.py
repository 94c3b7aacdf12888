"""The trusted side of one check: runs the data set's test with the candidate's function replaced by a stand-in.

Runs in a child the judge forks per check. The verdict is made here, from values the candidate sent and from how the test
ended; once something went wrong with the candidate (`Session.fatal`), nothing the test does can turn it into a pass.
"""

from __future__ import annotations

import builtins
import random
import re
import sys
import threading
import types
import weakref
from typing import Any

from s0.sandbox import wire
from s0.sandbox.failures import pack_exception
from s0.sandbox.remote import DOC, Remote, TestCodec, Unjudged, lent


class Abort(BaseException):
    """Unwinds the test when the candidate can no longer answer."""


class Setup(Exception):
    """The data set's own code is at fault, not the candidate."""


class CandidateError(Exception):
    """Raised in the test for a StopIteration of the candidate, which would end a loop of the test in silence."""


class EntryPoint(Remote):
    # The function (or class) under test; exists before the program has loaded.
    __slots__ = ()
    __doc__ = DOC  # type: ignore[assignment]
    _s0_is: type | None = types.FunctionType

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._s0_session.call(self, args, kwargs)


class EntryClass(EntryPoint):
    # as EntryPoint, where the prompt defines a class of that name
    __slots__ = ()
    __doc__ = DOC  # type: ignore[assignment]
    _s0_is = type


class Session:
    """One conversation with a candidate over two pipes; may be used by several threads of the test."""

    def __init__(self, reader: int, writer: int):
        self.reader, self.writer = reader, writer
        self.codec = TestCodec(self)
        self.requests = self.calls = 0
        self.is_loaded = False
        self.fatal: dict[str, str] | None = None
        self.raised: BaseException | None = None
        #: the prompt says that the entry point is a class: what its objects answer is what is under test
        self.trusts_objects = False
        #: the test handles StopIteration itself
        self.expects_stop = self.stopped = False
        self.lock = threading.RLock()
        self.freed: list[int] = []
        self.seeds: list[Any] | None = None
        self.streams = (sys.stdin, sys.stdout, builtins.input, builtins.open)

    def abort(self, kind: str, detail: str) -> Abort:
        self.fatal = self.fatal or {"kind": kind, "detail": wire.one_line(detail)}
        return Abort()

    def unjudged(self, why: str) -> Unjudged:
        self.fatal = self.fatal or {"kind": "unjudged", "detail": wire.one_line(f"cannot be judged: {why}")}
        return Unjudged(why)

    def reference(self, made: Remote, number: int) -> Any:
        return weakref.ref(made, lambda _: self.freed.append(number))

    # -- messages ----------------------------------------------------------------------------------------------------------

    def load(self, program: str, entry_point: str, prompt: str, inside: bool = False) -> None:
        """Hand over the program; `loaded` waits for the outcome, so that both sides set up at the same time."""
        shared = re.findall(
            r"^class[ \t]+(\w+)|^(\w+)[ \t]*=[ \t]*[\w.]*(?:[nN]amed_?[tT]uple|Enum|Flag|dataclass)\(", prompt, re.M
        )
        job = {
            "program": program,
            "entry_point": entry_point,
            "inside": inside,
            "prompt_lines": prompt.count("\n") + 1,
            "shared": [a or b for a, b in shared],
        }
        self._send(wire.dumps(job))

    def loaded(self) -> None:
        """Wait until the program runs, once. Raises Abort when it does not."""
        if self.is_loaded:
            return
        body = self._receive(0)
        self.is_loaded = True
        if body[0] == "ret":
            return
        exc = self._failure(body[1])
        text = _text(exc)
        if isinstance(exc, KeyError) and text.startswith("'"):
            text = f"{text} (is the function defined?)"
        text += _hint(exc, answers=True)
        raise self.abort("memory" if isinstance(exc, MemoryError) else "error", f"{type(exc).__name__}: {text}")

    def _send(self, payload: bytes) -> None:
        try:
            wire.write_frame(self.writer, payload)
        except BrokenPipeError:
            raise self.abort("died", "ended before being asked") from None

    def _receive(self, number: int) -> list[Any]:
        """The answer to request `number`, [kind, node, changes, kept, printed]; meanwhile the candidate may ask back."""
        while True:
            try:
                payload = wire.read_frame(self.reader, wire.MAX_FRAME)
                if payload is None:
                    raise self.abort("died", "ended before answering")
                node = wire.loads(payload)
            except wire.WireError as exc:
                raise self.abort("protocol", str(exc)) from None
            if type(node) is not list or len(node) != 6:
                raise self.abort("protocol", "malformed answer")
            if node[0] == "ask":
                self._answer(node)
                continue
            if type(node[0]) is not int or node[1] not in ("ret", "exc", "bad"):
                raise self.abort("protocol", "malformed answer")
            if node[0] != number:
                raise self.abort("protocol", f"answer {wire.one_line(node[0], 30)} where {number} was expected")
            return node[1:]

    def _answer(self, node: list[Any]) -> None:
        if not self.requests:
            raise self.abort("protocol", "asked before being asked")
        _, name, number, args, kwargs, changes = node
        codec = self.codec
        try:
            positional = [codec.unpack(a) for a in args]
            named = {str(k): codec.unpack(v) for k, v in kwargs}
            codec.apply(changes)
        except (wire.WireError, TypeError, ValueError) as exc:
            raise self.abort("protocol", str(exc)) from None
        try:
            try:
                result = codec.pack(lent(self, name, number, positional, named))
                kind = "ret"
            except Exception as exc:
                result, kind = self._own_exception(exc), "exc"
            self._send(wire.dumps([kind, result, codec.changes()]))
        except wire.WireError as exc:
            raise self.unjudged(f"the test's object answers with what cannot be handed over: {exc}") from None

    def _own_exception(self, exc: Exception) -> Any:
        """So that the test meets the very same exception should the candidate let it through."""
        node = pack_exception(self.codec, exc, 0)
        if "e" in node:
            number = len(self.codec.outgoing)
            self.codec.outgoing[number] = (exc, "exception", [])
            node["e"][2] += ["_s0_number", number]
        return node

    def ask(self, name: str, target: Remote, args: list[Any], kwargs: dict[str, Any] | None = None) -> Any:
        """One operation on an object of the candidate, and its outcome. Raises what it raised."""
        with self.lock:
            if self.fatal:
                raise Abort()
            self.loaded()
            codec = self.codec
            try:
                number = object.__getattribute__(target, "_s0_number")
                positional = [codec.pack(a) for a in args]
                named = [[k, codec.pack(v)] for k, v in (kwargs or {}).items()]
                changes = codec.changes()
            except (wire.WireError, RecursionError) as exc:
                raise self.unjudged(f"the test passes what cannot be handed over: {exc}") from None
            self.requests += 1
            request = self.requests
            self._send(wire.dumps([request, name, number, positional, named, self._extra(), changes]))
            return self._outcome(name, self._receive(request))

    def _extra(self) -> dict[str, Any] | None:
        """What else the candidate has to know: numbers of objects no longer used, a new seed, whether output is wanted."""
        stdin, stdout, asked, opened = self.streams
        if sys.stdin is not stdin or builtins.input is not asked or builtins.open is not opened:
            raise self.unjudged("the test replaces input or files of its own process")
        extra: dict[str, Any] = {}
        if self.freed:
            extra["free"], self.freed = self.freed, []
        if sys.stdout is not stdout:
            extra["out"] = True
        if self.seeds is not None:
            extra["seed"], self.seeds = self.seeds, None
        return extra or None

    def _outcome(self, name: str, body: list[Any]) -> Any:
        kind, node, changes, kept, printed = body
        if kind == "bad":
            raise self.unjudged(str(node))
        codec = self.codec
        failure: BaseException | None = None
        result = None
        try:
            if kind == "ret":
                result = codec.unpack(node)
            else:
                failure = self._failure(node)
            codec.apply(changes)
            if type(kept) is not list or not all(type(k) is int and k in codec.known for k in kept):
                raise wire.WireError("malformed list of objects")
            keep = set(kept)
            codec.forget([n for n in codec.known if n not in keep])
        except (wire.WireError, RecursionError) as exc:
            raise self.abort("protocol", str(exc)) from None
        if type(printed) is str and printed:
            sys.stdout.write(printed)
        if failure is None:
            return result
        if isinstance(failure, StopIteration | StopAsyncIteration) and name not in (
            "next",
            "__next__",
            "__anext__",
            "await",
        ):
            # An iterator protocol exception would end a `map` in the test early, and with it the comparison.
            if self.expects_stop:
                self.stopped = True
            else:
                failure = CandidateError(f"{type(failure).__name__}: {failure}")
        self.raised = failure
        raise failure

    def _failure(self, node: Any) -> BaseException:
        try:
            exc = self.codec.unpack(node)
        except (wire.WireError, RecursionError) as inner:
            raise self.abort("protocol", str(inner)) from None
        if not isinstance(exc, BaseException) or isinstance(exc, Abort | Unjudged):
            raise self.abort("protocol", "malformed exception")
        return exc

    def entry(self, kind: type[EntryPoint]) -> EntryPoint:
        self.codec.entry = kind(self, 0)
        return self.codec.entry

    def call(self, target: Remote, args: tuple, kwargs: dict[str, Any]) -> Any:
        self.calls += 1
        return self.ask("__call__", target, list(args), kwargs)

    def find(self, names: list[str], target: Remote) -> dict[str, Any]:
        """Those of `names` that the program defines at its top level."""
        found = self.ask("globals", target, names)
        if type(found) is not dict or not all(n in names for n in found):
            raise self.abort("protocol", "malformed names")
        return found


def _hint(exc: BaseException, answers: bool) -> str:
    """What to do about an import of a package that is hidden."""
    if not isinstance(exc, ModuleNotFoundError) or not exc.name:
        return ""
    name = wire.one_line(exc.name.partition(".")[0], 60)
    more = " with sandbox.answer_packages=true" if answers else ""
    return f" (installed packages are hidden: sandbox.packages=[{name}]{more} shows one)"


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception as inner:
        return f"(no message: {type(inner).__name__})"


def _execute(code: str, name: str, names: dict[str, Any]) -> None:
    # without dont_inherit this module's own `from __future__` would change what annotations mean there
    exec(compile(code, name, "exec", dont_inherit=True), names)


def _names_used(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names_used(constant)
    return found


def _namespace(session: Session, check: dict[str, str], proxy: EntryPoint) -> dict[str, Any]:
    """Run prompt and test in one namespace; the test may use the prompt's helpers and the entry point's own name, and what
    neither of them defines is looked for in the program.

    Raises Setup where the data set's code fails before it ever called the candidate; a test that calls it while it loads
    (a trailing `check(f)`, assertions at top level) makes its verdict here.
    """
    module = types.ModuleType("test")
    sys.modules["test"] = module  # dataclasses look their module up
    names = module.__dict__
    try:
        try:
            _execute(check["prompt"], "<prompt>", names)
        except SyntaxError:
            _execute(check["prompt"] + "\n    pass\n", "<prompt>", names)
    except Exception as exc:
        raise Setup(f"the prompt does not run by itself: {_described(exc)}") from None
    own = (type, types.FunctionType)
    session.codec.share({n: v for n, v in names.items() if isinstance(v, own) and v.__module__ == "test"})
    session.trusts_objects = isinstance(names.get(check["entry_point"]), type)
    if session.trusts_objects:
        proxy = session.entry(EntryClass)
    names[check["entry_point"]] = proxy
    try:
        code = compile(check["test"], "<test>", "exec", dont_inherit=True)
        used = _names_used(code) - names.keys() - vars(builtins).keys()
        used &= set(re.findall(r"(?<![\w.])[^\W\d]\w*", check["test"]))
        used -= _bound(check["test"])
        if used:
            names.update(session.find(sorted(used), proxy))
        exec(code, names)
    except (Abort, MemoryError):
        raise
    except Exception as exc:
        if session.calls:
            raise
        raise Setup(f"the test does not load: {_described(exc)}") from None
    return names


def _bound(source: str) -> set[str]:
    """Names the test itself binds, as far as a glance tells."""
    pattern = r"\b(?:def|class|as|for)\s+(\w+)|^\s*(\w+)\s*(?:=[^=]|:|,)|\bimport\s+([\w., ]+)"
    found: set[str] = set()
    for groups in re.findall(pattern, source, re.M):
        found.update(w for g in groups for w in re.findall(r"\w+", g))
    return found


def _described(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {_text(exc)}{_hint(exc, answers=False)}"


def judge(session: Session, check: dict[str, str]) -> dict[str, str]:
    """{"kind", "detail"}, to be called after "ready". Besides the verdict kinds there are "died", which asks the caller
    to look at how the candidate ended, and "data", where the data set itself is at fault."""
    if check.get("inside"):
        return _judged_inside(session, check)
    session.expects_stop = "StopIteration" in check["test"] or "StopAsyncIteration" in check["test"]
    _follow_seeds(session)
    try:
        session.load(check["prompt"] + check["completion"], check["entry_point"], check["prompt"])
        names = _namespace(session, check, session.entry(EntryPoint))
        session.loaded()
        if "check" in names:
            names["check"](session.codec.entry)
        elif not session.calls:
            raise Setup("the test defines no check(candidate)")
        outcome = {"kind": "pass", "detail": ""}
    except Setup as exc:
        outcome = {"kind": "data", "detail": wire.one_line(exc)}
    except MemoryError as exc:
        outcome = {"kind": "memory", "detail": "" if exc is session.raised else "while comparing the answer"}
    except BaseException as exc:
        outcome = _outcome(exc, session)
    if session.fatal:
        return session.fatal
    if outcome["kind"] == "pass" and not session.calls:
        return {"kind": "data", "detail": "the test never calls the candidate"}
    if outcome["kind"] == "pass" and session.stopped:
        return {
            "kind": "unjudged",
            "detail": "cannot be judged: StopIteration left the program and may have ended a loop of the test",
        }
    return outcome


def _judged_inside(session: Session, check: dict[str, str]) -> dict[str, str]:
    """The official way: program and test are one program, and the candidate's process says how it ended."""
    program = f"{check['prompt']}{check['completion']}\n{check['test']}\n"
    try:
        session.load(program, check["entry_point"], check["prompt"], inside=True)
        session.loaded()
    except Abort:
        assert session.fatal is not None
        if session.fatal["detail"].startswith("AssertionError"):
            session.fatal["kind"] = "wrong"
        return session.fatal
    return {"kind": "pass", "detail": ""}


def _follow_seeds(session: Session) -> None:
    """A test that seeds `random` means the program's numbers as well."""
    random.seed(0)
    seed = random.seed

    def seed_both(a: Any = None, version: int = 2) -> None:
        seed(a, version)
        if a is not None:
            session.seeds = [session.codec.pack(a)]

    random.seed = seed_both  # type: ignore[assignment]


def _outcome(exc: BaseException, session: Session) -> dict[str, str]:
    text = _text(exc)
    if exc is session.raised:
        name = "" if isinstance(exc, CandidateError) else f"{type(exc).__name__}: "
        return {"kind": "error", "detail": wire.one_line(f"{name}{text}{_hint(exc, answers=True)}")}
    if isinstance(exc, AssertionError):
        return {"kind": "wrong", "detail": wire.one_line(text)}
    return {"kind": "wrong", "detail": wire.one_line(f"the test met {type(exc).__name__}: {text}")}
