"""Named third-party packages for tests (and, by choice, answers): where they lie, and an importer that knows no others."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import Any


def locate(names: Sequence[str]) -> dict[str, list[str]]:
    """Name -> [file to import, further folders it needs] as this interpreter finds them. Raises LookupError."""
    found: dict[str, list[str]] = {}
    for name in names:
        if not name.isidentifier():
            raise LookupError(f"{name!r} is not the name of a package")
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
        if spec is None or not spec.origin or not os.path.isfile(spec.origin):
            raise LookupError(f"{name} is not installed as a package of Python files")
        beside = os.path.join(os.path.dirname(os.path.dirname(spec.origin)), f"{name}.libs")
        found[name] = [spec.origin] + [beside] * (bool(spec.submodule_search_locations) and os.path.isdir(beside))
    return found


def folders(found: dict[str, list[str]]) -> list[str]:
    """What has to be readable: a package's folder, a single module's file, and the folders beside them."""
    out = []
    for origin, *more in found.values():
        out += [os.path.dirname(origin) if os.path.basename(origin).startswith("__init__.") else origin, *more]
    return out


class _Finder:
    """For `sys.meta_path`: finds the named packages at their places and nothing beside them."""

    def __init__(self, found: dict[str, list[str]]):
        self.found = found

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in self.found:
            return None
        origin = self.found[name][0]
        inside = [os.path.dirname(origin)] if os.path.basename(origin).startswith("__init__.") else None
        return importlib.util.spec_from_file_location(name, origin, submodule_search_locations=inside)


def load(found: dict[str, list[str]]) -> None:
    """Make the packages importable and import them, so that forked children find them warm. Raises ImportError."""
    if found:
        sys.meta_path.append(_Finder(found))  # type: ignore[arg-type]
        for name in found:
            try:
                importlib.import_module(name)
            except Exception as exc:
                hidden = getattr(exc, "name", None)
                hint = f"; name {hidden} in sandbox.packages as well" if isinstance(exc, ModuleNotFoundError) else ""
                raise ImportError(f"sandbox.packages: {name} cannot be imported there: {exc}{hint}") from None
