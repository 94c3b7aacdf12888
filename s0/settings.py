"""A setting is stated once: default, range or choices, unit and one line of help stand beside its dataclass field.

From there come the checks (`check`), the lines of `--help` and of the documentation (`describe`), and Hydra's schema
(`hydra_schema`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from s0.errors import ConfigError, suggest

_NOTHING: Any = object()


def setting(
    default: Any = _NOTHING,
    help: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Sequence[Any] | None = None,
    unit: str = "",
    factory: Callable[[], Any] | None = None,
    result: bool = True,
) -> Any:
    """A dataclass field with what is known of its values: `low`/`high` are inclusive, `above` is not. result=False: no
    result depends on it (where files go, how work is fitted into the machine), so it is left out of all keys."""
    known = {"help": help, "low": low, "high": high, "above": above, "choices": choices, "unit": unit}
    metadata = {k: v for k, v in known.items() if v not in (None, "")} | {"result": result}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    if default is _NOTHING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def shared(cls: type, name: str, **changes: Any) -> Any:
    """The field `name` of another settings class: its default, help and rule stand there alone. `changes` are what differs
    here (default=..., help=...)."""
    (f,) = [f for f in dataclasses.fields(cls) if f.name == name]
    known = {k: v for k, v in f.metadata.items() if k != "result"}
    return setting(changes.pop("default", f.default), **{**known, "result": f.metadata["result"], **changes})


@dataclass(frozen=True)
class Setting:
    """One field of a settings class, as help and documentation show it."""

    name: str
    type: str
    default: Any
    rule: str
    unit: str
    help: str


def describe(cls: type) -> list[Setting]:
    """The settings of a class in order, base classes first."""
    hints = types_of(cls)
    out = []
    for f in dataclasses.fields(cls):
        if f.default is not dataclasses.MISSING:
            default = f.default
        else:
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else None
        m = f.metadata
        out.append(Setting(f.name, _words(hints[f.name]), default, rule(m), m.get("unit", ""), m.get("help", "")))
    return out


def determining(values: Any) -> dict[str, Any]:
    """The settings a result depends on, as plain values; sections inside likewise."""
    out = {}
    for f in dataclasses.fields(values):
        value = getattr(values, f.name)
        if f.metadata.get("result", True):
            out[f.name] = determining(value) if dataclasses.is_dataclass(value) else value
    return out


@functools.cache
def types_of(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def names(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


def rule(metadata: typing.Mapping[str, Any]) -> str:
    """The range or the choices in words; "" where anything of the type will do."""
    if "choices" in metadata:
        return ", ".join(map(str, metadata["choices"]))
    low, high, above = (metadata.get(k) for k in ("low", "high", "above"))
    if above is not None:
        return f"more than {above:g}" + ("" if high is None else f", at most {high:g}")
    if low is not None and high is not None:
        return f"between {low:g} and {high:g}"
    if low is not None:
        return f"{low:g} or more"
    return "" if high is None else f"at most {high:g}"


def check(values: Any, prefix: str = "") -> None:
    """Raise ConfigError for the first field of a settings object that has the wrong type or breaks its own rule."""
    hints = types_of(type(values))  # type: ignore[arg-type]
    for f in dataclasses.fields(values):
        value, hint, name = getattr(values, f.name), hints[f.name], f"{prefix}{f.name}"
        if value is None and type(None) in typing.get_args(hint):
            continue
        if not _fits(value, hint):
            limit = rule(f.metadata)
            raise ConfigError(f"{name}={value!r}: must be {_words(hint)}{f', {limit}' if limit else ''}")
        for part in value if isinstance(value, (list, tuple)) else [value]:
            _check_rule(name, value, part, hint, f.metadata)


def _check_rule(name: str, value: Any, part: Any, hint: Any, metadata: typing.Mapping[str, Any]) -> None:
    if "choices" in metadata:
        if part not in metadata["choices"]:
            raise ConfigError(f"{name}={value!r}: {suggest(str(part), [str(c) for c in metadata['choices']])}")
        return
    if isinstance(part, bool) or not isinstance(part, (int, float)):
        return
    low, high, above = (metadata.get(k) for k in ("low", "high", "above"))
    bad = (
        (low is not None and part < low) or (high is not None and part > high) or (above is not None and part <= above)
    )
    if bad or not math.isfinite(part):
        raise ConfigError(f"{name}={value!r}: must be {_words(hint)}, {rule(metadata) or 'finite'}")


def _fits(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, a) for a in args)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and all(_fits(v, args[0]) for v in value)
    return isinstance(value, origin or hint)


def _words(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys("null" if a is type(None) else _words(a) for a in args))
    if origin in (list, tuple):
        return f"a list of {_words(args[0]).removeprefix('a ').removeprefix('an ')}s"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text", dict: "a mapping"}.get(
        origin or hint, "any value" if hint is Any else getattr(hint, "__name__", str(hint))
    )


@functools.cache
def hydra_schema(cls: type, *, open: bool = False, changed: tuple[tuple[str, Any, Any], ...] = ()) -> type:
    """The same fields as a class Hydra can compose (OmegaConf treats frozen dataclasses as read-only); one class per class,
    because Hydra compares them by identity.

    open: every field but `name` may be null and is null by default ("not given"): what stands in for it is decided later.
    changed: (field, type, default) of fields that Hydra is to take more freely.
    """
    freer = {name: (name, hint, field(default=default)) for name, hint, default in changed}
    fields: list[tuple[str, Any, Any]] = []
    for f in dataclasses.fields(cls):
        hint, factory = types_of(cls)[f.name], f.default_factory
        if f.name in freer:
            fields.append(freer[f.name])
        elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
            node = hydra_schema(hint)
            fields.append((f.name, node, field(default_factory=node)))
        elif open and f.name != "name":
            simple = _composable(hint)
            fields.append((f.name, Any if simple is Any else simple | None, field(default=None)))
        elif factory is not dataclasses.MISSING:
            fields.append((f.name, _composable(hint), field(default_factory=factory)))
        else:
            default = "???" if f.default is dataclasses.MISSING else f.default
            fields.append((f.name, _composable(hint), field(default=default)))
    return dataclasses.make_dataclass(cls.__name__, fields)


def _composable(hint: Any) -> Any:
    """The hint where OmegaConf can enforce it, else Any (unions of several types)."""
    args = [a for a in typing.get_args(hint) if a is not type(None)]
    if typing.get_origin(hint) in (typing.Union, types.UnionType) and (len(args) > 1 or typing.get_origin(args[0])):
        return Any
    return hint
