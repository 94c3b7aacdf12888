"""The operations an object can be asked for from the other side of the border, by the names of Python's special methods."""

from __future__ import annotations

from typing import Any

_BINARY = "add sub mul truediv floordiv mod divmod pow matmul lshift rshift and or xor".split()  # noqa: SIM905
COMPARISONS = tuple(f"__{n}__" for n in ("eq", "ne", "lt", "le", "gt", "ge"))
#: operations whose outcome judges the operand: a test's value given to one would be known, or approved, by the candidate
GUARDED = frozenset(
    [*COMPARISONS, "__contains__"]
    + [f"__{p}{n}__" for n in _BINARY for p in ("", "r", "i") if not (n == "divmod" and p == "i")]
)
ACCESS = """call len length_hint iter next reversed getitem setitem delitem bool int float complex index abs neg pos invert
round trunc floor ceil str repr format bytes hash enter exit await aiter anext aenter aexit fspath dir instancecheck
subclasscheck""".split()  # noqa: SIM905
DUNDERS = (*sorted(GUARDED), *(f"__{n}__" for n in ACCESS))

#: built-in types whose content can be copied from an object of a subclass
BASES = (dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, complex)
IMMUTABLE = (tuple, frozenset, str, bytes, int, float, complex)
#: names of predicates of the built-in value types: an object of another class must not answer for one of them
PREDICATES = frozenset(
    n
    for t in (str, bytes, set, float, int)
    for n in dir(t)
    if n.startswith(("is", "startswith", "endswith")) and callable(getattr(t, n))
)


def supported(kind: type) -> list[str]:
    """The special methods objects of this class have beyond those every object has."""
    found = []
    for name in DUNDERS:
        for c in kind.__mro__:
            if c is not object and name in vars(c):
                if vars(c)[name] is not None:
                    found.append(name)
                break
    return found


def lookup(kind: type, name: str) -> Any:
    """The attribute as instances find it on their class (`getattr` would look at the metaclass, too)."""
    return next((vars(c)[name] for c in kind.__mro__ if name in vars(c)), None)


def base_of(kind: type) -> type | None:
    """The built-in value type a class derives from."""
    return next((b for b in BASES if issubclass(kind, b)), None)


def inherited(kind: type, names: list[str], base: type | None) -> list[str]:
    """Those of `names` that work as in `base`."""
    if base is None:
        return []
    return [n for n in names if lookup(kind, n) is lookup(base, n)]


def unhashable(kind: type) -> bool:
    return kind.__hash__ is None


def perform(name: str, value: Any, args: list[Any]) -> Any:
    """The special method `name` of `value`, found as Python finds it: on its class."""
    return getattr(type(value), name)(value, *args)
