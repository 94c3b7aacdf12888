"""Finished work, kept under keys made from everything that determines it, and shared between processes.

    <root>/<kind>/<key>.jsonl    append-only logs: completions, verdicts (one line per unit; a torn line is skipped)
    <root>/<kind>/<key>/         folders written whole: trained adapters
    <root>/claims/<name>.lock    who works on what: an operating-system lock, so a dead process's claim is free at once

A unit is never computed twice: a process that finds a claim taken waits for its result. Locks are `flock` locks: on a
network file system they need NFSv4 (or any mount that honours flock).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from s0.errors import StoreError


class Log:
    """An append-only JSONL file of {"k": unit key, "v": value}. Appends are whole lines under a lock, so two processes may
    write the same log; a line torn by a crash is ignored and the next append starts on a fresh line."""

    def __init__(self, path: Path):
        self.path = path
        self._values: dict[str, Any] = {}
        self._read_to = 0

    def refresh(self) -> dict[str, Any]:
        """All units now on disk (reads only what was appended since the last call)."""
        try:
            with open(self.path, "rb") as f:
                f.seek(self._read_to)
                data = f.read()
        except FileNotFoundError:
            return self._values
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read ({error.strerror}); fix the folder's permissions") from error
        whole, newline, _ = data.rpartition(b"\n")
        if newline:
            self._read_to += len(whole) + 1
            for line in whole.split(b"\n"):
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    self._values.setdefault(entry["k"], entry["v"])
        return self._values

    def append(self, units: dict[str, Any]) -> None:
        """Add units. Raises StoreError when the disk is full or the folder read-only; what was stored before stays."""
        if not units:
            return
        text = "".join(
            json.dumps({"k": k, "v": v}, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
            for k, v in units.items()
        ).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(str(self.path) + ".lock"), open(self.path, "ab+") as f:
                size = f.seek(0, os.SEEK_END)
                if size:
                    f.seek(size - 1)
                    if f.read(1) != b"\n":
                        text = b"\n" + text
                f.write(text)
                f.flush()
        except OSError as error:
            raise StoreError(
                f"cannot append to {self.path}: {error.strerror or error}; free disk space or choose another folder "
                "(store=...) and run the same command again: finished work is kept"
            ) from error


class Store:
    """See the module docstring. `root` is created on first write."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self._logs: dict[tuple[str, str], Log] = {}

    def log(self, kind: str, key: str) -> Log:
        if (kind, key) not in self._logs:
            self._logs[kind, key] = Log(self.root / kind / f"{key}.jsonl")
        return self._logs[kind, key]

    def folder(self, kind: str, key: str) -> Path:
        return self.root / kind / key

    def has_folder(self, kind: str, key: str) -> bool:
        return self.folder(kind, key).is_dir()

    @contextlib.contextmanager
    def new_folder(self, kind: str, key: str) -> Iterator[Path]:
        """Write a folder whole: the yielded temporary folder becomes `<kind>/<key>` on success and vanishes otherwise."""
        target = self.folder(kind, key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{key}.", suffix=".tmp"))
        except OSError as error:
            raise StoreError(
                f"cannot write {target}: {error.strerror}; choose a writable folder (store=...)"
            ) from error
        try:
            yield temporary
            try:
                os.rename(temporary, target)
            except OSError:
                if not target.is_dir():  # somebody else finished the same key first: equal by construction
                    raise
        except OSError as error:
            raise StoreError(
                f"cannot write {target}: {error.strerror or error}; free disk space and run the same command again"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @contextlib.contextmanager
    def claim(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Hold the claim `name` (yields True), or with wait=False yield False at once when somebody else holds it.

        The lock belongs to the process: it is free again when the process ends, however it ends.
        """
        path = self.root / "claims" / f"{name}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(str(path))
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise StoreError(
                f"cannot claim {path}: {error.strerror or error}; choose a writable folder (store=...)"
            ) from error
        try:
            yield True
        finally:
            lock.release()
