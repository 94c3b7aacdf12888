"""Atomic file writes: a reader sees the old file or the new one, never a torn one."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s0.errors import StoreError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is fsynced and renamed over `path`, else removed.

    Raises StoreError naming the path when the folder is read-only or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(fd)
        temporary = Path(name)
        temporary.chmod(0o644)
        yield temporary
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; free disk space or choose a writable folder "
            "(store=..., records=...) and run the same command again: finished work is kept"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_rows(path: Path, value: dict[str, Any]) -> None:
    """`write_json` with one line per field of the outer objects and one line per item of lists of objects: as small as
    compact JSON nearly, and still read and compared line by line."""
    write_text(path, _rows(value, 0) + "\n")


def _rows(value: Any, depth: int) -> str:
    pad = " " * (depth + 1)
    if isinstance(value, dict) and value and depth < 3 and any(isinstance(v, (dict, list)) for v in value.values()):
        body = ",\n".join(f"{pad}{json.dumps(k)}: {_rows(value[k], depth + 1)}" for k in sorted(value))
        return "{\n" + body + "\n" + pad[:-1] + "}"
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        return "[\n" + ",\n".join(pad + _line(v) for v in value) + "\n" + pad[:-1] + "]"
    return _line(value)


def _line(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(r, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n" for r in rows))


def read_jsonl(path: Path) -> list[Any]:
    """The values of a JSON lines file, blank lines left out. A line ends at a line feed alone: U+2028, U+0085 and others
    that `str.splitlines` breaks at may stand inside a JSON string. Raises OSError, ValueError or RecursionError."""
    return [json.loads(line) for line in Path(path).read_bytes().decode("utf-8").split("\n") if line.strip()]
