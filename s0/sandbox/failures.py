"""Exceptions across the border: class by name, arguments, attributes and full text, on both sides."""

from __future__ import annotations

import contextlib
from typing import Any

from s0.sandbox.wire import WireError

#: longest text of an exception, in characters
MAX_TEXT = 1 << 16
_FIELDS = (
    "errno",
    "strerror",
    "filename",
    "filename2",
    "name",
    "path",
    "obj",
    "msg",
    "lineno",
    "offset",
    "text",
    "code",
)


def pack_exception(codec: Any, exc: BaseException, depth: int) -> Any:
    """{"e": [class, arguments, attributes as name, value, ..., text]}"""
    own = dict(getattr(exc, "__dict__", {}))
    if "_s0_number" in own:
        return {"x": own["_s0_number"]}  # it came from the test
    try:
        text = str(exc)[:MAX_TEXT]
    except BaseException as inner:
        text = f"(no message: {type(inner).__name__})"
    attributes: list[Any] = []
    for name, value in own.items():
        if not name.startswith("__") or name == "__notes__":
            attributes += [name, codec.pack(value, depth + 1)]
    for name in _FIELDS:
        value = getattr(type(exc), name, None) and getattr(exc, name, None)
        if type(value) in (int, str):
            attributes += [name, codec.pack(value)]
    if isinstance(exc.__cause__, BaseException) and depth < 8:
        attributes += ["__cause__", pack_exception(codec, exc.__cause__, depth + 1)]
    arguments = [codec.pack(a, depth + 1) for a in exc.args]
    return {"e": [codec.pack(type(exc), depth + 1), arguments, attributes, text]}


def unpack_exception(codec: Any, content: Any, depth: int) -> BaseException:
    """The exception as the other side described it. Raises WireError."""
    node, arguments, attributes, text = content
    kind = codec.unpack(node, depth + 1)
    if not isinstance(kind, type) or not issubclass(kind, BaseException) or type(arguments) is not list:
        raise WireError("malformed value: an exception")
    if type(text) is not str or type(attributes) is not list:
        raise WireError("malformed value: an exception")
    args = [codec.unpack(a, depth + 1) for a in arguments]
    pairs = list(zip(attributes[::2], [codec.unpack(a, depth + 1) for a in attributes[1::2]], strict=True))
    made = _make(kind, args, text)
    for name, value in pairs:
        if type(name) is str and (not name.startswith("__") or name in ("__notes__", "__cause__")):
            with contextlib.suppress(AttributeError, TypeError):
                setattr(made, name, value)
    return made


def _make(kind: type[BaseException], args: list[Any], text: str) -> BaseException:
    try:
        if kind.__module__ == "builtins":
            return kind(*args)
        made = kind.__new__(kind, *args)
    except Exception:
        try:
            made = kind.__new__(kind)
        except Exception:
            return RuntimeError(f"{kind.__name__}: {text}")
    made.args = tuple(args)
    return made
