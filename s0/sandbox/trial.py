"""The trusted side of one check: runs the data set's test with the candidate's function replaced by a proxy.

Runs in a child the judge forks per check. The verdict is made here, from values the candidate sent and from how the test
ended; once something went wrong with the candidate (`Session.fatal`), nothing the test does can turn it into a pass.
"""

from __future__ import annotations

import builtins
import random
import sys
import types
from typing import Any

from s0.sandbox import wire


class Abort(BaseException):
    """Unwinds the test when the candidate can no longer answer."""


class Setup(Exception):
    """The data set's own code is at fault, not the candidate."""


class CandidateError(Exception):
    """Raised in the test for an exception of the candidate that has no ordinary built-in class."""


class Session:
    """One conversation with a candidate over two pipes."""

    def __init__(self, reader: int, writer: int):
        self.reader, self.writer = reader, writer
        self.calls = 0
        self.is_loaded = False
        self.fatal: dict[str, str] | None = None
        self.raised: BaseException | None = None

    def abort(self, kind: str, detail: str) -> Abort:
        self.fatal = self.fatal or {"kind": kind, "detail": detail}
        return Abort()

    def _receive(self, number: int) -> list[Any]:
        try:
            payload = wire.read_frame(self.reader)
            if payload is None:
                raise self.abort("died", "ended before answering")
            node = wire.loads(payload)
        except wire.WireError as exc:
            raise self.abort("protocol", wire.one_line(exc)) from None
        if type(node) is not list or len(node) != 2 or type(node[0]) is not int or type(node[1]) is not list:
            raise self.abort("protocol", "malformed answer")
        if node[0] != number:
            raise self.abort("protocol", f"answer {wire.one_line(node[0], 30)} where {number} was expected")
        return node[1]

    def load(self, program: str, entry_point: str) -> None:
        """Hand over the program; `loaded` waits for the outcome, so that both sides set up at the same time."""
        self._send(wire.dumps({"program": program, "entry_point": entry_point}))

    def loaded(self) -> None:
        """Wait until the program runs, once. Raises Abort when it does not."""
        if self.is_loaded:
            return
        body = self._receive(0)
        self.is_loaded = True
        if body[:1] == ["ret"]:
            return
        if body[:1] != ["exc"] or [type(x) for x in body] != [str] * 4:
            raise self.abort("protocol", "malformed answer")
        if body[1] == "KeyError" and body[3].startswith("'"):
            body[3] = f"{body[3]} (is the function defined?)"
        raise self.abort("memory" if body[1] == "MemoryError" else "error", wire.one_line(f"{body[2]}: {body[3]}"))

    def _send(self, payload: bytes) -> None:
        try:
            wire.write_frame(self.writer, payload)
        except BrokenPipeError:
            raise self.abort("died", "ended before being asked") from None

    def call(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        if self.fatal:
            raise Abort()
        self.loaded()
        try:
            request = [wire.pack(list(args)), wire.pack(kwargs)]
        except wire.WireError as exc:
            raise Setup(f"the test passes an argument that cannot be sent: {exc}") from None
        self.calls += 1
        number = self.calls
        self._send(wire.dumps([number, *request]))
        body = self._receive(number)
        if body[:1] == ["ret"] and len(body) == 2:
            try:
                return wire.unpack(body[1])
            except wire.WireError as exc:
                raise self.abort("protocol", wire.one_line(exc)) from None
        if body[:1] == ["bad"]:
            raise self.abort("protocol", wire.one_line(body[1:]))
        if body[:1] != ["exc"] or [type(x) for x in body] != [str] * 4:
            raise self.abort("protocol", "malformed answer")
        self.raised = self._rebuild(*body[1:])
        raise self.raised

    @staticmethod
    def _rebuild(builtin: str, name: str, text: str) -> Exception:
        """The candidate's exception as the test would have seen it, as far as built-in classes can express it."""
        kind = getattr(builtins, builtin, None)
        # An iterator protocol exception would end a `map` in the test early, and with it the comparison.
        stop = (StopIteration, StopAsyncIteration)
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, stop):
            try:
                made = kind(text)
            except TypeError:  # UnicodeDecodeError and its like want more arguments
                made = CandidateError(f"{name}: {text}")
        else:
            made = CandidateError(f"{name}: {text}")
        made.s0_name = name  # type: ignore[attr-defined]
        return made


def _execute(code: str, name: str, names: dict[str, Any]) -> None:
    # without dont_inherit this module's own `from __future__` would change what annotations mean there
    exec(compile(code, name, "exec", dont_inherit=True), names)


def _namespace(session: Session, check: dict[str, str], proxy: Any) -> dict[str, Any]:
    """Run prompt and test in one namespace; the test may use the prompt's helpers and the entry point's own name.

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
        raise Setup(f"the prompt does not run by itself: {type(exc).__name__}: {exc}") from None
    names[check["entry_point"]] = proxy
    try:
        _execute(check["test"], "<test>", names)
    except (Abort, MemoryError):
        raise
    except Exception as exc:
        if session.calls:
            raise
        raise Setup(f"the test does not load: {type(exc).__name__}: {exc}") from None
    return names


def judge(session: Session, check: dict[str, str]) -> dict[str, str]:
    """{"kind", "detail"}, to be called after "ready". Besides the verdict kinds there are "died", which asks the caller
    to look at how the candidate ended, and "data", where the data set itself is at fault."""

    def candidate(*args: Any, **kwargs: Any) -> Any:
        return session.call(args, kwargs)

    candidate.__name__ = candidate.__qualname__ = check["entry_point"]
    random.seed(0)
    try:
        session.load(check["prompt"] + check["completion"], check["entry_point"])
        names = _namespace(session, check, candidate)
        session.loaded()
        if "check" in names:
            names["check"](candidate)
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
    return outcome


def _outcome(exc: BaseException, session: Session) -> dict[str, str]:
    try:
        text = str(exc)
    except Exception as inner:
        text = f"(no message: {type(inner).__name__})"
    if exc is session.raised:
        name = getattr(exc, "s0_name", type(exc).__name__)
        return {"kind": "error", "detail": wire.one_line(f"{name}: {text}")}
    if isinstance(exc, AssertionError):
        return {"kind": "wrong", "detail": wire.one_line(text)}
    return {"kind": "wrong", "detail": wire.one_line(f"the test met {type(exc).__name__}: {text}")}
