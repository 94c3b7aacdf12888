"""What crosses the border between the judge and untrusted code: length-prefixed JSON frames holding plain values.

Used on both sides, so it imports the standard library only. The receiving side rebuilds exact built-in types and nothing
else: a value that has no faithful plain form arrives as an `Opaque`, which equals nothing. Pickle is never used.
"""

from __future__ import annotations

import collections
import collections.abc
import itertools
import json
import math
import os
from typing import Any

#: largest frame untrusted code may send, in bytes
MAX_FRAME = 8 << 20
#: deepest nesting of containers in a value
MAX_DEPTH = 64
_INT_LIMIT = 1 << 63


class WireError(Exception):
    """The other side broke the protocol: frame too large, malformed JSON, unknown tag, nesting too deep."""


class Opaque:
    """Stands for a value that cannot cross the border; equal to nothing, not even to itself."""

    def __init__(self, name: str):
        self.name = name

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<{self.name} object>"


def one_line(text: object, limit: int = 300) -> str:
    """Untrusted text for a report: one line of at most `limit` printable characters, no terminal control codes."""
    words = " ".join(str(text)[: 4 * limit].split())[:limit]
    return "".join(c if c.isprintable() else "?" for c in words)


# -- frames ------------------------------------------------------------------------------------------------------------


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_frame(fd: int, payload: bytes) -> None:
    """Four bytes of length (big endian), then the payload. Raises OSError when the other side is gone."""
    write_all(fd, len(payload).to_bytes(4, "big") + payload)


def _read_exact(fd: int, size: int) -> bytes | None:
    parts, missing = [], size
    while missing:
        part = os.read(fd, min(missing, 1 << 20))
        if not part:
            return None
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def read_frame(fd: int, limit: int = MAX_FRAME) -> bytes | None:
    """The next payload, or None at end of file. Raises WireError when it is longer than `limit` bytes."""
    head = _read_exact(fd, 4)
    if head is None:
        return None
    size = int.from_bytes(head, "big")
    if size > limit:
        raise WireError(f"a message of {size} bytes exceeds the limit of {limit}")
    return _read_exact(fd, size)


def dumps(node: Any) -> bytes:
    return json.dumps(node, separators=(",", ":"), allow_nan=False).encode("ascii")


def _refuse_constant(text: str) -> Any:
    raise WireError(f"{text} is not a number here")


def loads(payload: bytes) -> Any:
    """Parsed JSON. Raises WireError for anything a well-behaved sender cannot produce."""
    try:
        return json.loads(payload.decode("ascii"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise WireError(f"malformed message: {exc}") from None


# -- values ------------------------------------------------------------------------------------------------------------

_CONTENT_BASES = (dict, list, tuple, set, frozenset, str, bytes, bytearray, float, int, complex)
#: types that override __eq__ yet compare like their base against a plain value
_PLAIN_ENOUGH = {collections.OrderedDict: dict, collections.Counter: dict}


def _base(kind: type) -> type | None:
    """The built-in type whose equality `kind` inherits unchanged, if there is one."""
    if kind in _PLAIN_ENOUGH:
        return _PLAIN_ENOUGH[kind]
    for base in _CONTENT_BASES:
        if issubclass(kind, base):
            return base if kind.__eq__ is base.__eq__ else None
    return None


def _all_plain(values: list[Any]) -> bool:
    """Whether JSON holds every element exactly as it is: no containers, big integers or non-finite floats."""
    kinds = set(map(type, values))
    if not kinds <= {str, int, float, bool, type(None)}:
        return False
    if float in kinds and not all(math.isfinite(v) for v in values if type(v) is float):
        return False
    return int not in kinds or all(-_INT_LIMIT < v < _INT_LIMIT for v in values if type(v) is int)


def pack(value: Any, depth: int = 0) -> Any:
    """The JSON form of `value`. Scalars and lists stand for themselves, everything else is {tag: content}.

    Raises WireError when containers nest deeper than MAX_DEPTH (self-containing values included).
    """
    if depth > MAX_DEPTH:
        raise WireError(f"a value nests deeper than {MAX_DEPTH} levels")
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -_INT_LIMIT < value < _INT_LIMIT else {"i": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"n": repr(value)}
    if kind is list:
        return value if _all_plain(value) else [pack(v, depth + 1) for v in value]
    if kind is tuple:
        return {"t": pack(list(value), depth)}
    if kind is dict:
        return {"d": [[pack(k, depth + 1), pack(v, depth + 1)] for k, v in value.items()]}
    if kind is set or kind is frozenset:
        return {"s" if kind is set else "f": pack(list(value), depth)}
    if kind is bytes or kind is bytearray:
        return {"b" if kind is bytes else "y": value.hex()}
    if kind is complex:
        return {"c": [pack(value.real), pack(value.imag)]}
    if kind is range:
        return {"r": [pack(value.start), pack(value.stop), pack(value.step)]}
    if kind.__module__ in ("builtins", "itertools") and isinstance(value, collections.abc.Iterator):
        # An endless iterator must not fill the memory before the frame limit can refuse it.
        items = list(itertools.islice(value, MAX_FRAME // 2))
        return {"g": pack(items, depth)}
    base: Any = _base(kind)
    if base is not None:
        if base in (int, float, complex, str, bytes, bytearray):
            plain = {int: int.__add__, float: float.__add__, complex: complex.__add__}.get(base)
            return pack(plain(value, 0) if plain else base.__getitem__(value, slice(None)), depth)
        content = base.items(value) if base is dict else base.__iter__(value)
        return pack(base(content), depth)
    return {"o": kind.__name__[:80]}


def _items(content: Any, depth: int) -> list[Any]:
    if type(content) is not list:
        raise WireError("malformed value: content is not a list")
    return [unpack(v, depth + 1) for v in content]


def _numbers(content: Any, kind: type, count: int) -> list[Any]:
    items = _items(content, 0)
    if len(items) != count or any(type(v) is not kind for v in items):
        raise WireError(f"malformed value: expected {count} of {kind.__name__}")
    return items


def _tagged(tag: str, content: Any, depth: int) -> Any:
    if tag == "t":
        return tuple(_items(content, depth))
    if tag == "d":
        pairs = _items(content, depth)
        if any(type(p) is not list or len(p) != 2 for p in pairs):
            raise WireError("malformed value: a dict is a list of pairs")
        return dict(pairs)
    if tag == "s":
        return set(_items(content, depth))
    if tag == "f":
        return frozenset(_items(content, depth))
    if tag == "g":
        return iter(_items(content, depth))
    if tag == "c":
        return complex(*_numbers(content, float, 2))
    if tag == "r":
        return range(*_numbers(content, int, 3))
    if type(content) is not str:
        raise WireError("malformed value: content is not a string")
    if tag == "i":
        return int(content, 16)
    if tag == "n" and content in ("nan", "inf", "-inf"):
        return float(content)
    if tag in ("b", "y"):
        return bytes.fromhex(content) if tag == "b" else bytearray.fromhex(content)
    if tag == "o":
        return Opaque(content[:80])
    raise WireError(f"malformed value: unknown tag {tag[:20]!r}")


def unpack(node: Any, depth: int = 0) -> Any:
    """Rebuilds what `pack` wrote, from exact built-in types only. Raises WireError for anything else."""
    if depth > 2 * MAX_DEPTH + 4:
        raise WireError("malformed value: nested too deep")
    kind = type(node)
    if node is None or kind is bool or kind is str or kind is int or kind is float:
        return node
    if kind is list:
        return list(node) if _all_plain(node) else [unpack(v, depth + 1) for v in node]
    if kind is dict and len(node) == 1:
        [(tag, content)] = node.items()
        try:
            return _tagged(tag, content, depth)
        except (TypeError, ValueError) as exc:
            raise WireError(f"malformed value: {exc}") from None
    raise WireError("malformed value")
