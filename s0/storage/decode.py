"""Strict reading of stored JSON: what is not exactly what the project writes is refused with one line that says where."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
import stat
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from s0.errors import StoreError
from s0.settings import types_of

T = TypeVar("T")
#: bytes of the largest file read as one JSON value; the largest records of the published benchmarks have tens of megabytes
LARGEST = 256 * 2**20
#: levels of the deepest value; records have about eight
DEEPEST = 60
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Malformed(ValueError):
    """A value is not what its field may hold; the message names the field."""


def read_json(path: Path, what: str, way_out: str) -> Any:
    """The JSON value of a file. Raises StoreError, in one line that ends with `way_out`, for anything else: another kind of
    file (folder, pipe, device), more than LARGEST bytes, a torn or deep value, NaN, a name that occurs twice."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # opening a pipe must not wait for a writer
        with open(fd, "rb") as f:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise Malformed("it is no regular file")
            if status.st_size > LARGEST:
                raise Malformed(f"it has {status.st_size} bytes, more than {LARGEST}")
            text = f.read(LARGEST + 1).decode("utf-8")
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_no_twins)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # pairs are text, halves are not
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StoreError(f"{path}: not a readable {what} ({_short(reason)}); {way_out}") from error
    return value


def _short(text: str) -> str:
    first = (text.splitlines() or [""])[0]
    return first if len(first) <= 200 else first[:200] + "..."


def _no_constant(name: str) -> Any:
    raise Malformed(f"{name} is no JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Malformed(f"{_short(text)} is no finite number")
    return value


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [k for k, _ in pairs]
        raise Malformed(f"the name {next(n for n in names if names.count(n) > 1)!r} occurs twice in one object")
    return value


def decode(cls: type[T], data: Any, where: str) -> T:
    """An instance of a dataclass from plain JSON: every field present, no other, each of its declared type.

    Raises Malformed naming the field (`where` is the path to it).
    """
    try:
        made: T = _decoder(cls)(data)  # type: ignore[arg-type]
    except _At as at:
        raise Malformed(f"{where}{''.join(reversed(at.path))}{at.problem}") from None
    return made


class _At(Exception):
    """What is wrong, and the path to it, innermost part first."""

    def __init__(self, problem: str):
        super().__init__(problem)
        self.problem, self.path = problem, [""]


@functools.cache
def _decoder(hint: Any) -> Callable[[Any], Any]:
    """A function from a JSON value to what a field of this type holds; raises _At."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return _plain
    if origin is typing.Literal:
        return functools.partial(_choice, args)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (_decoder(a) for a in args if a is not type(None))
        return lambda value: None if value is None else inner(value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = types_of(hint)
        return functools.partial(_object, hint, {f.name: _decoder(hints[f.name]) for f in dataclasses.fields(hint)})
    if hint is float:
        return _number
    if (origin or hint) is list:
        return functools.partial(_list, _decoder(args[0] if args else Any))
    if (origin or hint) is dict:
        return functools.partial(_dict, _decoder(args[1] if args else Any))
    return functools.partial(_exactly, hint)


def _choice(choices: tuple[Any, ...], value: Any) -> Any:
    if type(value) is not str or value not in choices:
        raise _At(f"={_short(repr(value))}: must be one of {', '.join(map(str, choices))}")
    return value


def _number(value: Any) -> Any:
    if type(value) is not float and type(value) is not int:
        raise _At(f" is {_kind(value)}, not a number")
    return value


def _exactly(wanted: type, value: Any) -> Any:
    if type(value) is not wanted:
        raise _At(f" is {_kind(value)}, not {_kind(wanted())}")
    return value


def _list(each: Callable[[Any], Any], value: Any) -> Any:
    _exactly(list, value)
    n = 0
    try:
        out = []
        for n, v in enumerate(value):  # noqa: B007
            out.append(each(v))
        return out
    except _At as at:
        at.path.append(f"[{n}]")
        raise


def _dict(each: Callable[[Any], Any], value: Any) -> Any:
    _exactly(dict, value)
    k = ""
    try:
        out = {}
        for k, v in value.items():
            out[k] = each(v)
        return out
    except _At as at:
        at.path.append(f".{_short(k)}")
        raise


def _object(cls: type, fields: dict[str, Callable[[Any], Any]], value: Any) -> Any:
    _exactly(dict, value)
    if value.keys() != fields.keys():
        for some, problem in ((fields.keys() - value.keys(), "missing"), (value.keys() - fields.keys(), "unknown")):
            if some:
                raise _At(f": field(s) {_short(', '.join(sorted(some)))} {problem}")
    name = ""
    try:
        values = {}
        for name, each in fields.items():
            values[name] = each(value[name])
    except _At as at:
        at.path.append(f".{name}")
        raise
    try:
        return cls(**values)
    except ValueError as error:
        raise _At(f": {error}") from error


def _plain(value: Any, depth: int = 0) -> Any:
    if type(value) is dict or type(value) is list:
        if depth > DEEPEST:
            raise _At(f" is nested more than {DEEPEST} deep")
        for v in value.values() if type(value) is dict else value:
            _plain(v, depth + 1)
    return value


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "an integer",
        float: "a number",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)
