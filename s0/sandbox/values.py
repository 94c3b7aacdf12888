"""The value types of the standard library that cross the border, and what each is made of (see `codec.py`)."""

from __future__ import annotations

import array
import builtins
import collections
import datetime
import decimal
import enum
import fractions
import io
import ipaddress
import itertools
import math
import pathlib
import re
import sys
import types
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, NamedTuple

from s0.sandbox.wire import MAX_FRAME, WireError


class Mutable(NamedTuple):
    """How a mutable type crosses: `head` (what its constructor needs), `parts` (its content) and their inverses."""

    tag: str
    head: Callable[[Any], Any]
    make: Callable[[Any], Any]
    parts: Callable[[Any], list[Any]]
    fill: Callable[[Any, list[Any]], None]


def _nothing(_value: Any) -> None:
    return None


def _pairs(value: Any) -> list[Any]:
    return list(itertools.chain.from_iterable(dict.items(value)))


def _fill_dict(value: Any, parts: list[Any]) -> None:
    value.clear()
    dict_update(value, zip(parts[::2], parts[1::2], strict=True))


def dict_update(value: Any, pairs: Any) -> None:
    for k, v in pairs:
        value[k] = v


def _fill_list(value: Any, parts: list[Any]) -> None:
    value[:] = parts


def _refill(value: Any, parts: list[Any]) -> None:
    value.clear()
    (value.update if isinstance(value, set) else value.extend)(parts)


def _fill_array(value: Any, parts: list[Any]) -> None:
    del value[:]
    value.frombytes(parts[0])


def _fill_space(value: Any, parts: list[Any]) -> None:
    _fill_dict(vars(value), parts)


def _fill_stream(value: Any, parts: list[Any]) -> None:
    value.seek(0)
    value.truncate()
    value.write(parts[0])
    value.seek(parts[1])


def _plain_dict(make: Callable[[], Any], tag: str) -> Mutable:
    return Mutable(tag, _nothing, lambda _: make(), _pairs, _fill_dict)


MUTABLE: dict[type, Mutable] = {
    list: Mutable("l", _nothing, lambda _: [], list, _fill_list),
    dict: _plain_dict(dict, "d"),
    collections.OrderedDict: Mutable(
        "od", _nothing, lambda _: collections.OrderedDict(), lambda v: [x for kv in v.items() for x in kv], _fill_dict
    ),
    collections.Counter: _plain_dict(collections.Counter, "counter"),
    collections.defaultdict: Mutable(
        "dd", lambda v: v.default_factory, lambda f: collections.defaultdict(f), _pairs, _fill_dict
    ),
    set: Mutable("s", _nothing, lambda _: set(), list, _refill),
    bytearray: Mutable("y", _nothing, lambda _: bytearray(), lambda v: [bytes(v)], lambda v, p: _fill_list(v, p[0])),
    collections.deque: Mutable("deque", lambda v: v.maxlen, lambda n: collections.deque(maxlen=n), list, _refill),
    array.array: Mutable("array", lambda v: v.typecode, lambda c: array.array(c), lambda v: [v.tobytes()], _fill_array),
    types.SimpleNamespace: Mutable(
        "space", _nothing, lambda _: types.SimpleNamespace(), lambda v: _pairs(vars(v)), _fill_space
    ),
    io.StringIO: Mutable("text", _nothing, lambda _: io.StringIO(), lambda v: [v.getvalue(), v.tell()], _fill_stream),
    io.BytesIO: Mutable("stream", _nothing, lambda _: io.BytesIO(), lambda v: [v.getvalue(), v.tell()], _fill_stream),
}
MUTABLE_TAGS = {m.tag: m for m in MUTABLE.values()}


def _datetime_parts(v: datetime.datetime) -> list[Any]:
    return [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.tzinfo, v.fold]


def _time_parts(v: datetime.time) -> list[Any]:
    return [v.hour, v.minute, v.second, v.microsecond, v.tzinfo, v.fold]


#: immutable types: tag, their parts, and how to build one from them
VALUES: dict[type, tuple[str, Callable[[Any], list[Any]], Callable[..., Any]]] = {
    complex: ("c", lambda v: [v.real, v.imag], complex),
    range: ("r", lambda v: [v.start, v.stop, v.step], range),
    slice: ("slice", lambda v: [v.start, v.stop, v.step], slice),
    decimal.Decimal: ("decimal", lambda v: [str(v)], decimal.Decimal),
    fractions.Fraction: ("fraction", lambda v: [v.numerator, v.denominator], fractions.Fraction),
    datetime.date: ("date", lambda v: [v.year, v.month, v.day], datetime.date),
    datetime.datetime: ("datetime", _datetime_parts, lambda *p: datetime.datetime(*p[:8], fold=p[8])),
    datetime.time: ("time", _time_parts, lambda *p: datetime.time(*p[:5], fold=p[5])),
    datetime.timedelta: ("delta", lambda v: [v.days, v.seconds, v.microseconds], datetime.timedelta),
    datetime.timezone: ("tz", lambda v: list(v.__getinitargs__()), datetime.timezone),  # type: ignore[attr-defined]
    zoneinfo.ZoneInfo: ("zone", lambda v: [v.key], zoneinfo.ZoneInfo),
    uuid.UUID: ("uuid", lambda v: [v.hex], uuid.UUID),
    re.Pattern: ("pattern", lambda v: [v.pattern, v.flags], re.compile),
    ipaddress.IPv4Address: ("ip4", lambda v: [int(v)], ipaddress.IPv4Address),
    ipaddress.IPv6Address: ("ip6", lambda v: [int(v)], ipaddress.IPv6Address),
    pathlib.PurePosixPath: ("purepath", lambda v: [str(v)], pathlib.PurePosixPath),
    pathlib.PosixPath: ("path", lambda v: [str(v)], pathlib.PosixPath),
    memoryview: ("view", lambda v: [v.tobytes()], memoryview),
    type({}.keys()): ("keys", lambda v: [dict.fromkeys(v)], lambda d: d.keys()),
    type({}.values()): ("vals", lambda v: [dict(enumerate(v))], lambda d: d.values()),
    type({}.items()): ("items", lambda v: [dict(v)], lambda d: d.items()),
    types.MappingProxyType: ("proxy", lambda v: [dict(v)], types.MappingProxyType),
}
VALUE_TAGS = {tag: build for tag, _, build in VALUES.values()}
CONSTANTS: dict[str, Any] = {"ellipsis": ..., "notimplemented": NotImplemented}
CONSTANT_NAMES = {id(v): k for k, v in CONSTANTS.items()}

#: classes that cross by name
CLASSES: dict[str, type] = {
    **{n: c for n, c in vars(builtins).items() if isinstance(c, type)},
    **{f"{c.__module__}.{c.__qualname__}": c for c in [*MUTABLE, *VALUES] if c.__module__ != "builtins"},
    **{f"types.{n}": c for n, c in vars(types).items() if isinstance(c, type)},
    "decimal.InvalidOperation": decimal.InvalidOperation,
    "decimal.DivisionByZero": decimal.DivisionByZero,
    "json.decoder.JSONDecodeError": __import__("json").JSONDecodeError,
    "queue.Empty": __import__("queue").Empty,
    "re.error": re.error,
    "statistics.StatisticsError": __import__("statistics").StatisticsError,
    "struct.error": __import__("struct").error,
    "zoneinfo.ZoneInfoNotFoundError": zoneinfo.ZoneInfoNotFoundError,
    "dataclasses.FrozenInstanceError": __import__("dataclasses").FrozenInstanceError,
    "asyncio.CancelledError": __import__("asyncio").CancelledError,
    "asyncio.InvalidStateError": __import__("asyncio").InvalidStateError,
    "copy.Error": __import__("copy").Error,
    "io.UnsupportedOperation": io.UnsupportedOperation,
    "enum.Enum": enum.Enum,
    "numbers.Number": __import__("numbers").Number,
}
CLASS_NAMES = {c: n for n, c in reversed(CLASSES.items())}


#: kinds of numpy's types that are nothing but their bytes
NUMPY_KINDS = "biufcSUmM"


def numpy_type(name: Any) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        raise WireError("a numpy value where numpy is not loaded")
    kind = numpy.dtype(name) if type(name) is str else None
    if kind is None or kind.kind not in NUMPY_KINDS:
        raise WireError("malformed value: a numpy type")
    return kind


def _make_array(head: Any) -> Any:
    name, shape = head
    kind = numpy_type(name)
    if type(shape) is not tuple or math.prod(shape) * max(kind.itemsize, 1) > MAX_FRAME:
        raise WireError("malformed value: a numpy shape")
    return sys.modules["numpy"].empty(shape, kind)


def _fill_ndarray(value: Any, parts: list[Any]) -> None:
    value[...] = sys.modules["numpy"].frombuffer(parts[0], value.dtype).reshape(value.shape)


def know_numpy() -> None:
    numpy = sys.modules.get("numpy")
    if numpy is not None and numpy.ndarray not in MUTABLE:
        MUTABLE[numpy.ndarray] = MUTABLE_TAGS["nd"] = Mutable(
            "nd", lambda v: (v.dtype.str, v.shape), _make_array, lambda v: [v.tobytes()], _fill_ndarray
        )


# -- classes of the prompt, which both sides define --------------------------------------------------------------------------


def is_plain_class(kind: type) -> bool:
    """Whether an object of this class is its attributes and nothing else, so that they are all there is to copy."""
    return (
        not issubclass(kind, type)
        and all(c is object or c.__flags__ & (1 << 9) or c.__module__ in ("abc", "typing") for c in kind.__mro__)
        and kind.__basicsize__ <= object.__basicsize__ + 8 * (2 + len(_slots(kind)))
    )  # 1 << 9: a heap type


def _slots(kind: type) -> list[str]:
    found: list[str] = []
    for c in kind.__mro__:
        slots = vars(c).get("__slots__", ())
        found += [slots] if isinstance(slots, str) else list(slots)
    return [f"_{kind.__name__}{n}" if n.startswith("__") and not n.endswith("__") else n for n in found]


def object_parts(value: Any) -> list[Any]:
    state = dict(getattr(value, "__dict__", {}))
    state.update(
        {
            n: getattr(value, n)
            for n in _slots(type(value))
            if n not in ("__dict__", "__weakref__") and hasattr(value, n)
        }
    )
    return _pairs(state)


def _fill_object(value: Any, parts: list[Any]) -> None:
    if hasattr(value, "__dict__"):
        value.__dict__.clear()
    for name, part in zip(parts[::2], parts[1::2], strict=True):
        if type(name) is not str or (name.startswith("__") and name.endswith("__")):
            raise ValueError("an attribute name")
        object.__setattr__(value, name, part)


OBJECT = Mutable("O", _nothing, _nothing, object_parts, _fill_object)


def is_plain_namedtuple(kind: type) -> bool:
    """Made by `namedtuple` or `NamedTuple` with nothing of its own added."""
    if kind.__bases__ != (tuple,):
        return False
    usual = {*vars(_REFERENCE), "__annotations__", "__orig_bases__", "__annotate__", "__annotate_func__"}
    usual |= {"__annotations_cache__", "__firstlineno__", "__static_attributes__", "__classcell__"}
    return set(vars(kind)) <= usual | set(kind._fields)  # type: ignore[attr-defined]


_REFERENCE = collections.namedtuple("_REFERENCE", ())
