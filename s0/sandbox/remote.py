"""The test's end of the border: stand-ins for objects that stayed in the candidate, and what the test itself hands out.

A stand-in passes every operation on and returns what the candidate answers, except where that answer would be the verdict:
whether an object of the candidate's own making equals, contains or exceeds a *value of the test* is not the candidate's to say,
and the value is not shown to it. Where Python's rules decide without asking (no `__eq__`, one that refuses the type, one
that agrees with everything) the decision is made here; else `Unjudged` ends the check.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from typing import Any

from s0.sandbox import operators
from s0.sandbox.codec import Codec
from s0.sandbox.failures import pack_exception, unpack_exception
from s0.sandbox.wire import MAX_FRAME, WireError, one_line


class Unjudged(BaseException):
    """The check ends without a verdict on the program: what the test asks cannot be answered across the border."""


_BUILTIN_BASES = {b.__name__: b for b in operators.BASES}
_STAND_INS: dict[str, type] = {
    **{n: t for n, t in vars(types).items() if isinstance(t, type)},
    **{t.__name__: t for t in (map, filter, zip, enumerate, reversed, type)},
}
_set = object.__setattr__
_get = object.__getattribute__


class Remote:
    """Base of all stand-ins; one subclass per class of the candidate."""

    __slots__ = ("__weakref__", "_s0_buffer", "_s0_ended", "_s0_large", "_s0_number", "_s0_session")
    _s0_base: type | None = None
    _s0_inherited: frozenset[str] = frozenset()
    _s0_is: type | None = None
    _s0_api = False

    def __init__(self, session: Any, number: int, large: bool = False):
        _set(self, "_s0_session", session)
        _set(self, "_s0_number", number)
        _set(self, "_s0_large", large)
        _set(self, "_s0_buffer", [])
        _set(self, "_s0_ended", ())

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self)._s0_is or type(self)._s0_base or type(self)

    def __getattr__(self, name: str) -> Any:
        if name == "__signature__":
            raise self._s0_session.unjudged("the test inspects the candidate's signature")
        if name in operators.PREDICATES and not self._s0_session.trusts_objects and not type(self)._s0_is:
            what = f"the test asks an object of the candidate's class {type(self).__name__} for {name!r}"
            raise self._s0_session.unjudged(what)
        return self._s0_session.ask("getattr", self, [name])

    def __setattr__(self, name: str, value: Any) -> None:
        self._s0_session.ask("setattr", self, [name, value])

    def __delattr__(self, name: str) -> None:
        self._s0_session.ask("delattr", self, [name])

    def __repr__(self) -> str:
        return _text(self._s0_session.ask("__repr__", self, []))

    def __str__(self) -> str:
        return _text(self._s0_session.ask("__str__", self, []))

    def __format__(self, spec: str) -> str:
        return _text(self._s0_session.ask("__format__", self, [spec]))

    def __dir__(self) -> Any:
        return self._s0_session.ask("__dir__", self, [])

    def __copy__(self) -> Any:
        return self._s0_session.ask("copy", self, [])

    def __deepcopy__(self, memo: Any) -> Any:
        return self._s0_session.ask("deepcopy", self, [])

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise self._s0_session.unjudged("the test pickles an object of the candidate")

    def __mro_entries__(self, bases: Any) -> Any:
        raise self._s0_session.unjudged("the test derives a class from one of the candidate's")

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and self._s0_session.ask("__instancecheck__", self, [value]) is True


DOC = property(lambda self: self._s0_session.ask("getattr", self, ["__doc__"]))


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("__str__ returned non-string")
    return value


def _content(self: Any) -> Any:
    if self._s0_large:
        raise self._s0_session.unjudged("the value is too large to be copied")
    return self._s0_session.ask("content", self, [])


def _passed_on(name: str) -> Any:
    def method(self: Any, *args: Any) -> Any:
        return self._s0_session.ask(name, self, list(args))

    method.__name__ = name
    return method


def _call(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self._s0_session.call(self, args, kwargs)


def _next(self: Any) -> Any:
    if not self._s0_buffer and not self._s0_ended:
        reply = self._s0_session.ask("next", self, [])
        if type(reply) is not list or len(reply) != 3 or type(reply[0]) is not list:
            raise self._s0_session.abort("protocol", "malformed items of an iterator")
        _set(self, "_s0_buffer", reply[0][::-1])
        _set(self, "_s0_ended", (reply[2],) if reply[1] is True else ())
    if self._s0_buffer:
        return self._s0_buffer.pop()
    value = self._s0_ended
    _set(self, "_s0_ended", (None,))
    raise StopIteration(*value)


def _await(self: Any) -> Any:
    return self._s0_session.ask("await", self, [])
    yield  # pragma: no cover  (makes this a generator, as __await__ must be)


class _Sent:
    """A coroutine's `send`: it runs to its end in the candidate."""

    def __init__(self, value: Any):
        self.value = value

    def __call__(self, _value: Any = None) -> Any:
        raise StopIteration(_get(self, "value")._s0_session.ask("await", self.value, []))


def _anext(self: Any) -> Any:
    async def step() -> Any:
        return self._s0_session.ask("await", self._s0_session.ask("__anext__", self, []), [])

    return step()


def _hash(self: Any) -> int:
    value = self._s0_session.ask("__hash__", self, [])
    if type(value) is not int:
        raise TypeError("__hash__ method should return an integer")
    return hash(value)


def _surely_differs(self: Any, other: Any) -> bool:
    """Whether a value too large to be copied differs from one of the test, by type, length or size."""
    base = type(self)._s0_base
    if not isinstance(other, base):
        return True
    if hasattr(other, "__len__"):
        return self._s0_session.ask("__len__", self, []) != len(other)
    return isinstance(other, int) and other.bit_length() < MAX_FRAME


def _guarded(name: str) -> Any:
    """A comparison, containment or arithmetic operation; see the module's text."""

    def method(self: Any, *operands: Any) -> Any:
        session, kind = self._s0_session, type(self)
        other = operands[0] if operands else None
        if isinstance(_get_type(other), type) and issubclass(_get_type(other), Remote):
            if name in ("__eq__", "__ne__") and other is self and name in kind._s0_inherited:
                return name == "__eq__"
            return session.ask(name, self, list(operands))
        if name in kind._s0_inherited:
            if self._s0_large and name in ("__eq__", "__ne__") and _surely_differs(self, other):
                return name == "__ne__"
            return getattr(kind._s0_base, name)(_content(self), *operands)
        if session.trusts_objects:
            return session.ask(name, self, list(operands))
        answer = session.ask("probe", self, [name, type(other).__name__])
        if answer in ("any", "none"):
            if name == "__contains__":
                raise TypeError(f"argument of type '{kind.__name__}' is not iterable")
            return NotImplemented
        what = name.strip("_")
        raise session.unjudged(
            f"the test asks an object of the candidate's class {kind.__name__} for {what!r} with a value of its own"
        )

    method.__name__ = name
    return method


_get_type = type


def _make_class(info: dict[str, Any]) -> type[Remote]:
    names: dict[str, Any] = {"__slots__": (), "__module__": "candidate", "__doc__": DOC}
    base = _BUILTIN_BASES.get(info["base"]) if info["base"] is not None else None
    stands_for = _STAND_INS.get(info["is"]) if type(info["is"]) is str else None
    for name in info["can"]:
        if name not in operators.DUNDERS:
            raise WireError("malformed value: an unknown operation")
        if name in operators.GUARDED:
            names[name] = _guarded(name)
        elif name not in ("__repr__", "__str__", "__format__", "__dir__", "__instancecheck__", "__subclasscheck__"):
            names[name] = _SPECIAL.get(name) or _passed_on(name)
    if "__eq__" in names and "__hash__" not in names:
        names["__hash__"] = None if info["unhashable"] is True else Remote.__hash__
    if stands_for is types.CoroutineType:
        names["send"] = property(_Sent)
        names["close"] = lambda self: None
    if stands_for is type:
        names["__instancecheck__"] = Remote.__instancecheck__
        names.pop("__or__", None)
        names.pop("__ror__", None)
    made = type(one_line(info["name"], 80), (Remote,), names)
    made._s0_base, made._s0_is = base, stands_for  # type: ignore[attr-defined]
    made._s0_inherited = frozenset(n for n in info["inherited"] if base is not None and n in names)  # type: ignore[attr-defined]
    return made


_SPECIAL = {
    "__call__": _call,
    "__next__": _next,
    "__hash__": _hash,
    "__await__": _await,
    "__anext__": _anext,
    "__iter__": lambda self: (
        self if "__next__" in vars(type(self)) else _get(self, "_s0_session").ask("__iter__", self, [])
    ),
    "__aiter__": lambda self: self if "__anext__" in vars(type(self)) else self._s0_session.ask("__aiter__", self, []),
}


class Like:
    """Mix-in of copies of immutable values whose class is the candidate's own: methods beyond the base's are passed on."""

    _s0_remote: Any

    def __getattr__(self, name: str) -> Any:
        if name == "_s0_remote":
            raise AttributeError(name)
        return getattr(self._s0_remote, name)

    def __repr__(self) -> str:
        return repr(self._s0_remote)

    def __str__(self) -> str:
        return str(self._s0_remote)

    def __format__(self, spec: str) -> str:
        return format(self._s0_remote, spec)


class TestCodec(Codec):
    """Test side. What the candidate may ask of the test's objects is listed in `outgoing`."""

    def __init__(self, session: Any):
        super().__init__()
        self.session = session
        self.classes: dict[int, type[Remote]] = {}
        self.likes: dict[int, type] = {}
        self.exceptions: dict[int, type[BaseException]] = {}
        self.exception_handles: dict[type, int] = {}
        self.stand_ins: dict[int, Any] = {}
        self.outgoing: dict[int, tuple[Any, str, list[str]]] = {}
        self.outgoing_numbers: dict[int, int] = {}
        #: what the prompt defines: name -> class or function
        self.prompt: dict[str, Any] = {}
        self.prompt_names: dict[int, str] = {}
        self.entry: Any = None

    def share(self, names: dict[str, Any]) -> None:
        self.prompt = names
        self.prompt_names = {id(v): k for k, v in names.items()}

    def shared_name(self, kind: type) -> str | None:
        return self.prompt_names.get(id(kind))

    def shared_class(self, name: Any) -> type:
        found = self.prompt.get(name) if type(name) is str else None
        if not isinstance(found, type):
            raise WireError("malformed value: a class of that name is not shared")
        return found

    # -- to the candidate --------------------------------------------------------------------------------------------------

    def pack_other(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if issubclass(kind, Remote):
            return {"h": _get(value, "_s0_number")}
        if issubclass(kind, Like):
            return {"h": _get(value._s0_remote, "_s0_number")}
        if id(value) in self.outgoing_numbers and self.outgoing[self.outgoing_numbers[id(value)]][0] is value:
            number = self.outgoing_numbers[id(value)]
            return {"x": [number, *self.outgoing[number][1:]]}
        if isinstance(value, type) and value in self.exception_handles:
            return {"h": self.exception_handles[value]}
        if id(value) in self.prompt_names:
            return {"G": self.prompt_names[id(value)]}
        if isinstance(value, BaseException):
            return pack_exception(self, value, depth)
        if isinstance(value, type) and issubclass(value, BaseException) and value.__module__ == "test":
            return self.pack(next(b for b in value.__mro__[1:] if b.__module__ == "builtins"))
        if "__next__" in operators.supported(kind) and kind.__module__ != "test":
            return self._lend(value, "iterator", ["__iter__", "__next__"])
        if isinstance(value, types.TracebackType):
            return None
        if isinstance(value, types.BuiltinMethodType) and not isinstance(
            value.__self__, types.ModuleType | type | None
        ):
            return self._lend(value, "function", ["__call__"])
        module = getattr(value if callable(value) and hasattr(value, "__module__") else kind, "__module__", None)
        if module == "test" or isinstance(value, types.MethodType):
            if isinstance(value, types.FunctionType | types.MethodType | type):
                return self._lend(value, "function", ["__call__"])
            names = [n for n in operators.supported(kind) if n not in ("__await__", "__instancecheck__")]
            return self._lend(value, "object", names)
        try:
            stream = io.BytesIO()
            _Pickler(stream).dump(value)
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError, ValueError):
            raise WireError(f"{one_line(kind.__name__, 80)} objects cannot be sent") from None
        return {"pickle": stream.getvalue().hex()}

    def _lend(self, value: Any, kind: str, names: list[str]) -> Any:
        number = len(self.outgoing)
        self.outgoing[number] = (value, kind, names)
        self.outgoing_numbers[id(value)] = number
        return {"x": [number, kind, names]}

    # -- from the candidate ------------------------------------------------------------------------------------------------

    def unpack_other(self, tag: str, content: Any, depth: int) -> Any:
        if tag == "h":
            return self._stand_in(content)
        if tag == "S":
            return self._like(content, depth)
        if tag == "X":
            return self._exception_class(content, depth)
        if tag == "e":
            return unpack_exception(self, content, depth)
        if tag == "x":
            if type(content) is not int or content not in self.outgoing:
                raise WireError("malformed value: an object of the test it was never given")
            return self.outgoing[content][0]
        return super().unpack_other(tag, content, depth)

    def _stand_in(self, content: Any) -> Any:
        number, kind, info, large = content
        if type(number) is not int or type(kind) is not int or len(self.stand_ins) > 1_000_000:
            raise WireError("malformed value: a handle")
        if number == 0:
            return self.entry
        if kind not in self.classes:
            if type(info) is not dict or type(info["can"]) is not list or type(info["inherited"]) is not list:
                raise WireError("malformed value: a handle")
            self.classes[kind] = _make_class(info)
        reference = self.stand_ins.get(number)
        known = reference() if reference is not None else None
        if known is not None and type(known) is self.classes[kind]:
            return known
        made = self.classes[kind](self.session, number, large is True)
        self.stand_ins[number] = self.session.reference(made, number)
        return made

    def _like(self, content: Any, depth: int) -> Any:
        value, handle = self.unpack(content[0], depth + 1), self.unpack(content[1], depth + 1)
        base, kind = type(value), content[1]["h"][1]
        if base not in operators.IMMUTABLE or not isinstance(handle, Remote):
            raise WireError("malformed value: a subclass of a built-in type")
        if kind not in self.likes:
            name = type(handle).__name__
            self.likes[kind] = type(name, (Like, base), {"__module__": "candidate"})
        made = (
            base.__new__(self.likes[kind], value) if base is not complex else complex.__new__(self.likes[kind], value)
        )
        made._s0_remote = handle  # type: ignore[attr-defined]
        return made

    def _exception_class(self, content: Any, depth: int) -> type:
        number, name, bases = content
        if type(number) is not int or type(name) is not str or type(bases) is not list:
            raise WireError("malformed value: an exception class")
        if number not in self.exceptions:
            parents = tuple(self.unpack(b, depth + 1) for b in bases)
            if not parents or not all(isinstance(p, type) and issubclass(p, BaseException) for p in parents):
                raise WireError("malformed value: an exception class")
            made = type(one_line(name, 80), parents, {"__module__": "candidate"})
            self.exceptions[number] = made
            self.exception_handles[made] = number
        else:
            for b in bases:
                self.unpack(b, depth + 1)  # keeps count
        return self.exceptions[number]


class _Pickler(pickle.Pickler):
    """For arguments out of the standard library alone: the candidate has none of the test's classes."""

    def reducer_override(self, value: Any) -> Any:
        kind = value if isinstance(value, type | types.FunctionType) else type(value)
        root = (getattr(kind, "__module__", None) or "").partition(".")[0]
        if root not in sys.stdlib_module_names:
            raise pickle.PicklingError(root)
        return NotImplemented


def lent(session: Any, name: str, number: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """What the candidate asks of an object the test handed out: the operations it was lent for, its public attributes."""
    if type(number) is not int or number not in session.codec.outgoing or type(name) is not str:
        raise session.abort("protocol", "asked for an object it was never given")
    value, kind, names = session.codec.outgoing[number]
    if name in names:
        if name == "__call__":
            return value(*args, **kwargs)
        if name == "__next__":
            return next(value)
        return operators.perform(name, value, args)
    if kind != "object" or name not in ("getattr", "setattr") or not args or type(args[0]) is not str:
        raise AttributeError(f"'{type(value).__name__}' object has no attribute {str(args[0])[:80]!r}")
    if args[0].startswith("_"):
        raise AttributeError(f"'{type(value).__name__}' object has no attribute {args[0][:80]!r}")
    if name == "getattr":
        return getattr(value, args[0])
    setattr(value, args[0], args[1])
    return None
