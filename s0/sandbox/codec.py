"""Python values as JSON nodes and back, faithful for the standard library's value types; used on both sides.

Scalars and lists stand for themselves, everything else is {tag: content}. Whatever bytes arrive, only known types are
built; nothing is looked up by a name the other side chose, except in tables made here. Pickle is never used.

Mutable values are numbered in the order in which they cross, so both sides give one object the same number: a second
reference, a cycle or an argument that comes back is {"@": number} and stays the same object. `changes` and `apply` carry over
what happened to objects both sides hold.

What has no copy (generators, functions, objects of unknown classes) is left to the subclasses: `pack_other`, `unpack_other`.
"""

from __future__ import annotations

import collections
import enum
import math
import re
import sys
from operator import is_
from typing import Any

from s0.sandbox.values import (
    CLASS_NAMES,
    CLASSES,
    CONSTANT_NAMES,
    CONSTANTS,
    MUTABLE,
    MUTABLE_TAGS,
    NUMPY_KINDS,
    OBJECT,
    VALUE_TAGS,
    VALUES,
    Mutable,
    is_plain_class,
    is_plain_namedtuple,
    know_numpy,
    numpy_type,
    object_parts,
)
from s0.sandbox.wire import MAX_DEPTH, WireError

_INT_LIMIT = 1 << 63


def _all_plain(values: list[Any]) -> bool:
    """Whether JSON holds every element exactly as it is: no containers, big integers, non-finite floats, surrogates."""
    kinds = set(map(type, values))
    if not kinds <= {str, int, float, bool, type(None)}:
        return False
    if float in kinds and not all(math.isfinite(v) for v in values if type(v) is float):
        return False
    if str in kinds and not all(v.isascii() for v in values if type(v) is str):
        return False
    return int not in kinds or all(-_INT_LIMIT < v < _INT_LIMIT for v in values if type(v) is int)


def _same(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and (all(map(is_, left, right)) or _equal_scalars(left, right))


def _equal_scalars(left: list[Any], right: list[Any]) -> bool:
    """For content that is made anew at each look (bytes of a bytearray, text of a stream)."""
    plain = {bytes, str, int}
    return len(left) <= 2 and all(
        type(a) in plain and type(a) is type(b) and a == b for a, b in zip(left, right, strict=True)
    )


class Codec:
    """Packs and unpacks for one side of one conversation; both sides must see the messages in the same order."""

    def __init__(self) -> None:
        self.known: dict[int, Any] = {}
        self.numbers: dict[int, int] = {}
        self.content: dict[int, list[Any]] = {}
        self.count = 0
        self.namedtuples: dict[tuple, type] = {}
        know_numpy()

    # -- objects both sides hold -------------------------------------------------------------------------------------------

    def register(self, value: Any) -> int:
        number, self.count = self.count, self.count + 1
        self.known[number] = value
        self.numbers[id(value)] = number
        return number

    def forget(self, numbers: list[int]) -> None:
        for number in numbers:
            self.content.pop(number, None)
            del self.numbers[id(self.known.pop(number))]

    def rewind(self, count: int) -> None:
        """Undo the registrations since `count`: the message they belong to is not sent."""
        self.forget([n for n in self.known if n >= count])
        self.count = count

    def changes(self) -> list[Any]:
        """[[number, parts], ...] of the objects whose content is not what the other side saw last."""
        changed = []
        for number, value in list(self.known.items()):
            parts = self.mutable(value).parts(value)
            if not _same(parts, self.content[number]):
                self.content[number] = parts
                changed.append([number, [self.pack(p, 1) for p in parts]])
        return changed

    def apply(self, changed: Any) -> None:
        """Bring the objects into the state the other side's `changes` describes. Raises WireError."""
        if type(changed) is not list:
            raise WireError("malformed changes")
        for entry in changed:
            if type(entry) is not list or len(entry) != 2 or type(entry[0]) is not int or type(entry[1]) is not list:
                raise WireError("malformed change")
            number, parts = entry
            if number not in self.known:
                raise WireError("a change of an unknown object")
            value = self.known[number]
            built = [self.unpack(p, 1) for p in parts]
            self._fill(number, value, built)

    def _fill(self, number: int, value: Any, parts: list[Any]) -> None:
        mutable = self.mutable(value)
        try:
            mutable.fill(value, parts)
            self.content[number] = mutable.parts(value)
        except (TypeError, ValueError, IndexError, OverflowError, AttributeError) as exc:
            raise WireError(f"malformed value: {exc}") from None

    @staticmethod
    def mutable(value: Any) -> Mutable:
        return MUTABLE.get(type(value), OBJECT)

    # -- packing -----------------------------------------------------------------------------------------------------------

    def pack(self, value: Any, depth: int = 0) -> Any:
        """The JSON form of `value`. Raises WireError for what cannot cross at all."""
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            return value if value.isascii() else _pack_text(value)
        if kind is int:
            return value if -_INT_LIMIT < value < _INT_LIMIT else {"i": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"n": repr(value)}
        if kind in MUTABLE and (kind.__name__ != "ndarray" or value.dtype.kind in NUMPY_KINDS):
            number = self.numbers.get(id(value))
            if number is not None:
                return {"@": number}
            if depth > MAX_DEPTH:
                return self.pack_other(value, depth)
            return self._pack_mutable(value, kind, depth)
        if kind is tuple or kind is frozenset:
            if depth > MAX_DEPTH:
                return self.pack_other(value, depth)
            return {"t" if kind is tuple else "f": [self.pack(v, depth + 1) for v in value]}
        if kind is bytes:
            return {"b": value.hex()}
        if kind in VALUES:
            try:
                tag, parts, _ = VALUES[kind]
                return {tag: [self.pack(p, depth + 1) for p in parts(value)]}
            except (TypeError, AttributeError):  # a view over unhashable values, a zone made from a file
                return self.pack_other(value, depth)
        if id(value) in CONSTANT_NAMES:
            return {"const": CONSTANT_NAMES[id(value)]}
        if isinstance(value, type) and value in CLASS_NAMES:
            return {"class": CLASS_NAMES[value]}
        if (numpy := sys.modules.get("numpy")) and isinstance(value, numpy.generic) and value.dtype.kind in NUMPY_KINDS:
            return {"np": [value.dtype.str, {"b": value.tobytes().hex()}]}
        if isinstance(value, tuple) and hasattr(kind, "_fields") and is_plain_namedtuple(kind):
            return {"N": [kind.__name__, list(kind._fields), [self.pack(v, depth + 1) for v in value]]}
        if isinstance(value, type):
            name = self.shared_name(value)
            return self.pack_other(value, depth) if name is None else {"P": name}
        name = self.shared_name(kind)
        if name is not None and depth <= MAX_DEPTH:
            if isinstance(value, enum.Enum) and type(value.name) is str:
                return {"E": [name, value.name]}
            if is_plain_class(kind):
                number = self.numbers.get(id(value))
                return {"@": number} if number is not None else self._pack_object(value, name, depth)
        return self.pack_other(value, depth)

    def _pack_mutable(self, value: Any, kind: type, depth: int) -> Any:
        number = self.register(value)
        mutable = MUTABLE[kind]
        parts = self.content[number] = mutable.parts(value)
        if kind is list:
            return parts if _all_plain(parts) else [self.pack(v, depth + 1) for v in parts]
        head = mutable.head(value)
        packed = parts if _all_plain(parts) else [self.pack(v, depth + 1) for v in parts]
        return {mutable.tag: [None if head is None else self.pack(head, depth + 1), packed]}

    def _pack_object(self, value: Any, name: str, depth: int) -> Any:
        number = self.register(value)
        parts = self.content[number] = object_parts(value)
        return {"O": [name, [self.pack(v, depth + 1) for v in parts]]}

    def shared_name(self, kind: type) -> str | None:
        """The name under which both sides know this class of the prompt, None for any other class."""
        return None

    def shared_class(self, name: Any) -> type:
        """The inverse of `shared_name`. Raises WireError."""
        raise WireError("malformed value: a class of that name is not shared")

    def pack_other(self, value: Any, depth: int) -> Any:
        raise WireError(f"a value of type {type(value).__name__} cannot be sent")

    # -- unpacking ---------------------------------------------------------------------------------------------------------

    def unpack(self, node: Any, depth: int = 0) -> Any:
        """Rebuilds what `pack` wrote. Raises WireError for anything else."""
        if depth > 3 * MAX_DEPTH:
            raise WireError("malformed value: nested too deep")
        kind = type(node)
        if node is None or kind is bool or kind is str or kind is int or kind is float:
            return node
        if kind is list:
            made: list[Any] = []
            number = self.register(made)
            made += node if _all_plain(node) else [self.unpack(v, depth + 1) for v in node]
            self.content[number] = list(made)
            return made
        if kind is dict and len(node) == 1:
            [(tag, content)] = node.items()
            try:
                return self._tagged(tag, content, depth)
            except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, OSError, re.error) as exc:
                raise WireError(f"malformed value: {exc}") from None
        raise WireError("malformed value")

    def _items(self, content: Any, depth: int) -> list[Any]:
        if type(content) is not list:
            raise WireError("malformed value: content is not a list")
        return [self.unpack(v, depth + 1) for v in content]

    def _tagged(self, tag: str, content: Any, depth: int) -> Any:
        if tag == "@":
            if type(content) is not int or content not in self.known:
                raise WireError("a reference to an unknown object")
            return self.known[content]
        if tag == "t":
            return tuple(self._items(content, depth))
        if tag == "f":
            return frozenset(self._items(content, depth))
        if tag in MUTABLE_TAGS:
            head, parts = content
            number_at = self.count
            self.count += 1  # the number belongs to the container, which may need its head first
            made = MUTABLE_TAGS[tag].make(self.unpack(head, depth + 1))
            self.known[number_at] = made
            self.numbers[id(made)] = number_at
            self.content[number_at] = []
            self._fill(number_at, made, self._items(parts, depth))
            return made
        if tag in VALUE_TAGS:
            return VALUE_TAGS[tag](*self._items(content, depth))
        if tag == "np":
            kind, raw = content[0], self.unpack(content[1])
            return numpy_type(kind).type(0) if not raw else sys.modules["numpy"].frombuffer(raw, numpy_type(kind))[0]
        if tag == "O":
            name, parts = content
            shared = self.shared_class(name)
            if not is_plain_class(shared):
                raise WireError("malformed value: not a class whose objects are their attributes")
            made = object.__new__(shared)
            self._fill(self.register(made), made, self._items(parts, depth))
            return made
        if tag == "E":
            return self.shared_class(content[0])[content[1]]  # type: ignore[index]
        if tag == "P":
            return self.shared_class(content)
        if tag == "N":
            return self._namedtuple(content, depth)
        if type(content) is str:
            if tag == "i":
                return int(content, 16)
            if tag == "n" and content in ("nan", "inf", "-inf"):
                return float(content)
            if tag == "u":
                return bytes.fromhex(content).decode("utf-8", "surrogatepass")
            if tag == "b":
                return bytes.fromhex(content)
            if tag == "const":
                return CONSTANTS[content]
            if tag == "class" and content in CLASSES:
                return CLASSES[content]
        return self.unpack_other(tag, content, depth)

    def _namedtuple(self, content: Any, depth: int) -> Any:
        name, fields, values = content
        if type(name) is not str or type(fields) is not list or len(fields) > 200:
            raise WireError("malformed value: a named tuple")
        try:
            kind: Any = self.shared_class(name)
        except WireError:
            kind = None
        if kind is None or getattr(kind, "_fields", None) != tuple(fields):
            key = (name, *fields)
            if key not in self.namedtuples:
                self.namedtuples[key] = collections.namedtuple(name, fields, module="test")  # type: ignore[misc]
            kind = self.namedtuples[key]
        return tuple.__new__(kind, self._items(values, depth))

    def unpack_other(self, tag: str, content: Any, depth: int) -> Any:
        raise WireError(f"malformed value: unknown tag {str(tag)[:20]!r}")


def _pack_text(value: str) -> Any:
    """JSON joins surrogates that stand side by side, so such text goes as bytes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return {"u": value.encode("utf-8", "surrogatepass").hex()}
    return value
