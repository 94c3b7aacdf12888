"""Finished work, kept under keys made from everything that determines it, and shared between processes.

    <root>/<kind>/<key>.jsonl    append-only logs: completions, verdicts (one line per unit; a torn line is skipped)
    <root>/<kind>/<key>/         folders written whole: trained adapters
    <root>/claims/<name>.lock    who works on what: an operating-system lock, so a dead process's claim is free at once

A unit is never computed twice: a process that finds a claim taken waits for its result. Locks are `flock` locks: on a
network file system they need NFSv4 (or any mount that honours flock).

What survives: killing processes loses nothing that was appended. Records and adapter folders are on the disk before they
carry their name, so a power cut cannot leave half of one; a log may lose its last lines then, which are computed again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s0.errors import StoreError
from s0.storage.files import write_text

#: temporary folders of dead processes are removed when they are older than this (seconds)
STALE_S = 24 * 3600.0
WAYS_OUT = (
    "free disk space or choose a writable folder (store=...) and run the same command again: finished work is kept"
)


def _flock(fd: int, operation: int, path: Path) -> None:
    try:
        fcntl.flock(fd, operation)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise StoreError(
                f"{path}: this file system has no locks ({error.strerror}); keep the store on a local disk or a mount "
                "that honours flock, such as NFSv4 (store=...)"
            ) from error
        raise


class Log:
    """An append-only JSONL file of {"k": unit key, "v": value}. Appends are whole lines under a lock, so any number of
    processes may write the same log; a line torn by a crash is ignored and the next append starts on a fresh line.

    The first value of a unit counts. Every process reads the file in the same order, so all agree on it.
    """

    def __init__(self, path: Path):
        self.path = path
        self._values: dict[str, Any] = {}
        self._read_to = 0

    def refresh(self) -> dict[str, Any]:
        """All units now on disk (reads only what was appended since the last call). Raises StoreError."""
        try:
            with open(self.path, "rb") as f:
                if os.fstat(f.fileno()).st_size < self._read_to:  # deleted and begun anew: what it held is gone
                    self._values, self._read_to = {}, 0
                f.seek(self._read_to)
                data = f.read()
        except FileNotFoundError:
            self._values, self._read_to = {}, 0
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
            fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                _flock(fd, fcntl.LOCK_EX, self.path)
                size = os.fstat(fd).st_size
                if size and os.pread(fd, 1, size - 1) != b"\n":
                    text = b"\n" + text  # a line torn by a crash ends here
                try:
                    _write_all(fd, text)
                except OSError:
                    with contextlib.suppress(OSError):
                        os.ftruncate(fd, size)  # no torn line when only part fitted
                    raise
            finally:
                os.close(fd)
        except OSError as error:
            raise StoreError(f"cannot append to {self.path}: {error.strerror or error}; {WAYS_OUT}") from error


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Store:
    """See the module docstring. `root` is created on first write."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self._logs: dict[tuple[str, str], Log] = {}
        #: kind -> (found here, needed) since the counts were last taken
        self._used: dict[str, tuple[int, int]] = {}

    def count(self, kind: str, found: int, needed: int) -> None:
        """Note that of so many things needed so many were here already."""
        f, n = self._used.get(kind, (0, 0))
        self._used[kind] = (f + found, n + needed)

    def take_counts(self) -> dict[str, tuple[int, int]]:
        """kind -> (found, needed), noted since the last call."""
        used, self._used = self._used, {}
        return used

    def claim_layout(self, layout: int) -> None:
        """Mark the store as written under this layout number of keys. Says in one line, once, that work stored under another
        is not used: no key of it can match. Raises StoreError."""
        mark = self.root / "layout"
        stated = mark.read_text(encoding="utf-8").strip() if mark.is_file() else ""
        if stated == str(layout):
            return
        if any(p.is_dir() for p in self.root.glob("*") if p.name != "claims"):
            print(
                f"{self.root}: holds work of another version of this code, which is not used; delete the folder or give "
                "another with store=...",
                file=sys.stderr,
            )
        write_text(mark, f"{layout}\n")

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
        """Write a folder whole: the yielded temporary folder becomes `<kind>/<key>` on success and vanishes otherwise.

        Raises StoreError when the disk is full or the folder read-only.
        """
        target = self.folder(kind, key)
        temporary: Path | None = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(target.parent, f".{key}.")
            temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{key}.", suffix=".tmp"))
            temporary.chmod(0o755)
            yield temporary
            for path in [*temporary.rglob("*"), temporary]:
                _sync(path)  # the contents reach the disk before the name does
            try:
                os.rename(temporary, target)
            except OSError:
                if not target.is_dir():  # somebody else finished the same key first: equal by construction
                    raise
            _sync(target.parent)
        except OSError as error:
            raise StoreError(f"cannot write {target}: {error.strerror or error}; {WAYS_OUT}") from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)

    @contextlib.contextmanager
    def claim(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Hold the claim `name` (yields True), or with wait=False yield False at once when somebody else holds it.

        The lock belongs to the process: it is free again when the process ends, however it ends. Claims taken while
        waiting must be taken in one order by everybody (two waiting processes could wait for each other otherwise).
        Raises StoreError.
        """
        path = self.root / "claims" / f"{name}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StoreError(f"cannot claim {path}: {error.strerror or error}; {WAYS_OUT}") from error
        try:
            try:
                _flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
            except BlockingIOError:
                if not wait:
                    yield False
                    return
                print(f"  waiting for {holder(path)}, who works on {name}", flush=True)
                _flock(fd, fcntl.LOCK_EX, path)
            with contextlib.suppress(OSError):  # only a note for readers; a full disk must not stop the work itself
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            yield True
        finally:
            os.close(fd)

    def holder_of(self, name: str) -> str | None:
        """Who holds the claim `name` now ("process 12 on host"), or None. Never waits."""
        path = self.root / "claims" / f"{name}.lock"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            _flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, path)
        except BlockingIOError:
            return holder(path)
        finally:
            os.close(fd)
        return None


def holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove_stale(folder: Path, prefix: str) -> None:
    for path in folder.glob(f"{prefix}*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_S:
                shutil.rmtree(path, ignore_errors=True)
