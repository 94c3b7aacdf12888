"""The candidate's end of the conversation: runs the program, then answers one operation after the other.

Everything here shares its process with untrusted code and decides nothing: what goes out are values, and handles on the
objects that stay here.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import io
import pickle
import random
import sys
import threading
import time
import types
from typing import Any

from s0.sandbox import operators, wire
from s0.sandbox.codec import Codec
from s0.sandbox.failures import pack_exception, unpack_exception

_MEMORY = b'["exc",{"e":[{"class":"MemoryError"},["out of memory"],[],"out of memory"]},[],[],""]'
#: objects the program still holds after they crossed, whose later changes are carried over
_MOST_KEPT = 256
#: items of an iterator that are sent one by one, and how long (seconds) one message may gather the later ones
_SINGLE, _GATHER_S = 64, 0.001
#: what a handle may say it is an instance of
_STAND_INS = {
    t: n for n, t in vars(types).items() if isinstance(t, type) and n.endswith(("Type",)) and n != "SimpleNamespace"
}
_STAND_INS |= {t: t.__name__ for t in (map, filter, zip, enumerate, reversed, type)}


class _Own(Codec):
    """Candidate side: what has no copy stays here under a handle."""

    def __init__(self, server: Server):
        super().__init__()
        self.server = server
        self.objects: dict[int, Any] = {}
        self.handles: dict[int, int] = {}
        self.types: dict[type, int] = {}
        self.last = 0

    def handle(self, value: Any) -> int:
        number = self.handles.get(id(value))
        if number is None:
            self.last += 1
            number = self.handles[id(value)] = self.last
            self.objects[number] = value
        return number

    def mark(self) -> tuple[int, int]:
        return self.count, len(self.types)

    def rewind_to(self, mark: tuple[int, int]) -> None:
        """Undo what packing a message that is not sent has numbered."""
        self.rewind(mark[0])
        self.types = {t: n for t, n in self.types.items() if n < mark[1]}

    def release(self, numbers: list[int]) -> None:
        for number in numbers:
            value = self.objects.pop(number, None)
            self.handles.pop(id(value), None)

    def describe(self, value: Any, large: bool = False) -> Any:
        """{"h": [handle, type number, what the type can do (once per type), too large to copy]}"""
        kind = type(value)
        new = kind not in self.types
        number = self.types.setdefault(kind, len(self.types))
        info = None
        if new:
            names = operators.supported(kind)
            base = operators.base_of(kind)
            info = {
                "name": kind.__name__[:80],
                "can": names,
                "base": base and base.__name__,
                "inherited": operators.inherited(kind, names, base),
                "unhashable": operators.unhashable(kind),
                "is": next((n for t, n in _STAND_INS.items() if kind is t), None)
                or ("type" if issubclass(kind, type) else None),
            }
        return {"h": [self.handle(value), number, info, large]}

    def shared_name(self, kind: type) -> str | None:
        return self.server.shared_name(kind)

    def shared_class(self, name: Any) -> type:
        found = self.server.module.__dict__.get(name)
        if not isinstance(found, type):
            raise wire.WireError(f"the program has no class {name}")
        return found

    def pack_other(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if isinstance(value, _FromTest):
            return {"x": object.__getattribute__(value, "_s0_number")}
        if isinstance(value, BaseException):
            return pack_exception(self, value, depth)
        if isinstance(value, type) and issubclass(value, BaseException):
            bases = [self.pack(b, depth + 1) for b in value.__bases__ if issubclass(b, BaseException)]
            return {"X": [self.handle(value), value.__name__[:80], bases]}
        base = operators.base_of(kind)
        if base in operators.IMMUTABLE and self._is_like(kind, base) and depth <= wire.MAX_DEPTH:
            return {"S": [self.pack(_content(base, value), depth + 1), self.describe(value)]}
        return self.describe(value)

    @staticmethod
    def _is_like(kind: type, base: type) -> bool:
        """Whether objects of the subclass compare, count and yield exactly as those of `base`."""
        own = ("__repr__", "__str__", "__format__", "__hash__", "__dir__", "__call__", "__bytes__")
        return all(operators.lookup(kind, n) is operators.lookup(base, n) for n in operators.DUNDERS if n not in own)

    def unpack_other(self, tag: str, content: Any, depth: int) -> Any:
        if tag == "h":
            return self.objects[content]
        if tag == "G":
            return self.server.module.__dict__[content]
        if tag == "x":
            return self.server.from_test(*content)
        if tag == "e":
            return unpack_exception(self, content, depth)
        if tag == "pickle":
            return pickle.loads(bytes.fromhex(content))
        return super().unpack_other(tag, content, depth)


def _content(base: type, value: Any) -> Any:
    """A copy of the content of `value` as an exact `base`, by the methods of `base`."""
    if base in (int, float, complex):
        return base.__add__(value, 0)  # type: ignore[operator]
    if base in (str, bytes, bytearray):
        return base.__getitem__(value, slice(None))  # type: ignore[attr-defined]
    return base(base.items(value) if base is dict else base.__iter__(value))  # type: ignore[attr-defined,call-arg]


class _FromTest:
    """Base of the stand-ins for objects that live in the test: every operation is asked of it."""

    def __init__(self, server: Server, number: int):
        object.__setattr__(self, "_s0_server", server)
        object.__setattr__(self, "_s0_number", number)

    def __getattr__(self, name: str) -> Any:
        return self._s0_server.ask("getattr", self._s0_number, [name])

    def __setattr__(self, name: str, value: Any) -> None:
        self._s0_server.ask("setattr", self._s0_number, [name, value])


def _asking(name: str) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._s0_server.ask(name, self._s0_number, list(args), kwargs)

    method.__name__ = name
    return method


class Server:
    """Answers the test's requests over two pipes until they end."""

    def __init__(self, reader: int, writer: int):
        self.reader, self.writer = reader, writer
        self.codec = _Own(self)
        self.module = types.ModuleType("solution")
        self.prompt_lines = 0
        self.shared: set[str] = set()
        self.lock = threading.RLock()
        self._proxies: dict[int, Any] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._seen: dict[int, int] = {}

    # -- the program -------------------------------------------------------------------------------------------------------

    def load(self, job: dict[str, Any]) -> bool:
        """Execute the program and say whether that worked."""
        sys.modules["solution"] = self.module
        random.seed(0)
        self.prompt_lines = job["prompt_lines"]
        self.shared = set(job["shared"])
        try:
            names = self.module.__dict__
            exec(compile(job["program"], "<solution>", "exec", dont_inherit=True), names)
            if job["inside"]:
                if "check" in names:
                    names["check"](names[job["entry_point"]])
            elif job["entry_point"] is not None:
                entry = self.module.__dict__[job["entry_point"]]
                self.codec.objects[0] = entry
                self.codec.handles[id(entry)] = 0
        except BaseException as exc:
            exc.__traceback__ = None
            wire.write_frame(self.writer, b"[0,%s" % self._failure(exc)[1:])
            return False
        wire.write_frame(self.writer, b'[0,"ret",null,[],[],""]')
        return True

    def shared_name(self, kind: type) -> str | None:
        """Classes of the prompt, unless the completion adds to them or writes them anew."""
        name = kind.__name__
        if name not in self.shared or self.module.__dict__.get(name) is not kind:
            return None
        if getattr(kind, "__firstlineno__", 0) > self.prompt_lines:
            return None
        for member in vars(kind).values():
            code = getattr(getattr(member, "__func__", getattr(member, "fget", member)), "__code__", None)
            if code and code.co_filename == "<solution>" and code.co_firstlineno > self.prompt_lines:
                return None
        return name

    def serve(self) -> None:
        while True:
            payload = wire.read_frame(self.reader, 1 << 30)
            if payload is None:
                return
            self.answer(wire.loads(payload))

    # -- requests of the test ----------------------------------------------------------------------------------------------

    def answer(self, request: list[Any]) -> None:
        number, name, target, args, kwargs, extra, changes = request
        extra = extra or {}
        self.codec.release(extra.get("free", []))
        if "seed" in extra:
            random.seed(*[self.codec.unpack(s) for s in extra["seed"]])
        try:
            body = self._perform(name, target, args, kwargs, changes, extra.get("out", False))
        except BaseException as exc:
            exc.__traceback__ = None  # frees what the frames hold, so that there is memory to report with
            body = self._failure(exc)
        wire.write_frame(self.writer, b"[%d,%s" % (number, body[1:]))

    def _perform(self, name: str, target: int, args: list[Any], kwargs: list[Any], changes: Any, out: bool) -> bytes:
        try:
            positional = [self.codec.unpack(a) for a in args]
            named = {k: self.codec.unpack(v) for k, v in kwargs}
            self.codec.apply(changes)
        except (wire.WireError, KeyError, ImportError, AttributeError, pickle.UnpicklingError) as exc:
            return wire.dumps(["bad", f"an argument cannot be handed over: {exc}", [], [], ""])
        text = io.StringIO()
        capture: Any = contextlib.redirect_stdout(text) if out else contextlib.nullcontext()
        with capture:
            if name == "content" or name == "next":
                result = getattr(self, f"_{name}")(self.codec.objects[target])
            else:
                result = self._operate(name, self.codec.objects.get(target), positional, named)
        positional.clear()
        named.clear()
        return self._reply(result, text.getvalue())

    def _reply(self, result: Any, out: str) -> bytes:
        codec = self.codec
        mark = codec.mark()
        try:
            node = wire.dumps(codec.pack(result))
            if len(node) > wire.MAX_FRAME - (1 << 16):
                codec.rewind_to(mark)
                node = wire.dumps(codec.describe(result, large=True))
            del result
            changed = wire.dumps(codec.changes())
        except (wire.WireError, RecursionError, ValueError) as exc:
            return wire.dumps(["bad", f"the result cannot be handed over: {exc}"[:300], [], [], ""])
        return b'["ret",%s,%s,%s,%s]' % (node, changed, wire.dumps(self._prune()), wire.dumps(out[: 1 << 20]))

    def _prune(self) -> list[int]:
        """Forget the objects nobody here refers to any more; the numbers of the others."""
        codec = self.codec
        kept: list[int] = []
        known = codec.known
        for number in sorted(known):
            # the table, and the argument of getrefcount
            if sys.getrefcount(known[number]) > 2 and len(kept) < _MOST_KEPT:
                kept.append(number)
            else:
                codec.forget([number])
        return kept

    def _failure(self, exc: BaseException) -> bytes:
        if isinstance(exc, MemoryError):
            return _MEMORY
        codec = self.codec
        mark = codec.mark()
        try:
            node = wire.dumps(pack_exception(codec, exc, 0))
            if len(node) > 1 << 20:
                raise wire.WireError("too large")
            changed = wire.dumps(codec.changes())
        except BaseException as inner:
            codec.rewind_to(mark)
            text = f"{type(exc).__name__[:80]} ({type(inner).__name__} while describing it)"
            return wire.dumps(["exc", {"e": [{"class": "Exception"}, [text], [], text]}, [], sorted(codec.known), ""])
        del exc
        return b'["exc",%s,%s,%s,""]' % (node, changed, wire.dumps(sorted(codec.known)))

    def _operate(self, name: str, value: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if name == "__call__":
            return value(*args, **kwargs)
        if name in operators.DUNDERS:
            return operators.perform(name, value, args)
        others: dict[str, Any] = {
            "getattr": getattr,
            "setattr": setattr,
            "delattr": delattr,
            "copy": copy.copy,
            "deepcopy": copy.deepcopy,
            "probe": self._probe,
            "await": self._await,
            "globals": lambda _, *names: {n: self.module.__dict__[n] for n in names if n in self.module.__dict__},
        }
        return others[name](value, *args)

    def _probe(self, value: Any, name: str, like: str) -> str:
        """How the operation takes operands that mean nothing to it: "any" (accepts whatever it is given), "none" (refuses
        everything of that type) or "some"."""
        samples = {"int": 7919 * 10**9 + 1, "float": 1.25e77, "str": "\x00s0", "list": [object()], "tuple": (object(),)}
        outcomes = []
        for operand in (object(), samples.get(like, object())):
            try:
                outcome = operators.perform(name, value, [operand])
            except Exception:
                outcome = NotImplemented if name not in operators.COMPARISONS[:2] else False
            outcomes.append("none" if outcome is NotImplemented else "any" if outcome is not False else "some")
        if name == "__ne__":
            return {"any": "some", "some": "any", "none": "none"}[outcomes[1]]
        return "any" if outcomes[0] == "any" else outcomes[1]

    def _await(self, value: Any) -> Any:
        """Run a coroutine to its end."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(_awaited(value))

    def _content(self, value: Any) -> Any:
        base = operators.base_of(type(value))
        if base is None:
            raise TypeError("no content")
        return _content(base, value)

    def _next(self, value: Any) -> list[Any]:
        """[items, ended, value]: one item, of long iterators as many as one moment yields. What it raises after the first item
        is raised by the next request."""
        number = self.codec.handles.get(id(value), 0)
        seen = self._seen.get(number, 0)
        items: list[Any] = []
        until = time.monotonic() + _GATHER_S
        while not items or (seen >= _SINGLE and len(items) < 4096 and time.monotonic() < until):
            try:
                items.append(next(value))
            except StopIteration as stop:
                return [items, True, stop.value]
            except BaseException:
                if not items:
                    raise
                self._seen[number] = 0
                return [items, False, None]
            seen += 1
            if type(items[-1]) not in (int, float, str, bool, type(None)):
                seen = min(seen, _SINGLE - 1)  # what may change while the iterator goes on is sent at once
        self._seen[number] = seen
        return [items, False, None]

    # -- requests to the test ----------------------------------------------------------------------------------------------

    def from_test(self, number: int, kind: str, names: list[str]) -> Any:
        if number not in self._proxies:
            methods = {n: _asking(n) for n in names}
            self._proxies[number] = type(kind, (_FromTest,), methods)(self, number)
        return self._proxies[number]

    def ask(self, name: str, number: int, args: list[Any], kwargs: dict[str, Any] | None = None) -> Any:
        with self.lock:
            codec = self.codec
            packed = [codec.pack(a) for a in args]
            named = [[k, codec.pack(v)] for k, v in (kwargs or {}).items()]
            wire.write_frame(self.writer, wire.dumps(["ask", name, number, packed, named, codec.changes()]))
            while True:
                payload = wire.read_frame(self.reader, 1 << 30)
                if payload is None:
                    raise SystemExit
                message = wire.loads(payload)
                if type(message[0]) is int:
                    self.answer(message)  # the test calls back while it answers
                    continue
                kind, node, changes = message
                result = codec.unpack(node)
                codec.apply(changes)
                if kind == "exc":
                    raise result
                return result


async def _awaited(value: Any) -> Any:
    return await value


def answer_calls(job: dict[str, Any], reader: int, writer: int) -> None:
    """Execute the program, say whether that worked, then answer one request after the other."""
    server = Server(reader, writer)
    if server.load(job):
        server.serve()
