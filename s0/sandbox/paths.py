"""Which files untrusted code may read: the interpreter's standard library, the shared libraries its extension modules
load, time zone data and three harmless devices. Third-party packages (and any answer key in them) are left out.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import sys
import sysconfig
from typing import NamedTuple

from s0.sandbox import packages

_SYSTEM = ("/etc/localtime", "/usr/share/zoneinfo", "/etc/ld.so.cache")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_FOREIGN = ("site-packages", "dist-packages", "test", "idlelib", "turtledemo", "ensurepip")
#: extension modules that pull in a desktop's worth of libraries or exist for Python's own tests only
_SKIPPED = ("_tkinter", "_test", "xx", "_ctypes_test")


class Allowed(NamedTuple):
    """`readable`: files and directories with all below; `listable`: directories whose names alone may be seen."""

    readable: list[str]
    listable: list[str]


def _stdlib_dirs() -> list[str]:
    found = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.__file__)}
    return sorted(d for d in found if d and os.path.isdir(d))


def _loaded_libraries() -> list[str]:
    """Shared objects mapped into this process, under the names the dynamic loader found them by."""

    class Info(ctypes.Structure):
        _fields_ = [("addr", ctypes.c_void_p), ("name", ctypes.c_char_p)]

    names: list[str] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Info), ctypes.c_size_t, ctypes.c_void_p)
    def visit(info, _size, _data):  # type: ignore[no-untyped-def]
        names.append(os.fsdecode(info.contents.name or b""))
        return 0

    ctypes.CDLL(None).dl_iterate_phdr(visit, None)
    with open("/proc/self/maps") as file:  # the loader itself goes by no name above
        names += [line.split(maxsplit=5)[5].strip() for line in file if line.count("/") and ".so" in line]
    return sorted({n for n in names if n.startswith("/")})


def _import_extensions() -> None:
    dynload = os.path.join(sysconfig.get_path("platstdlib"), "lib-dynload")
    for entry in sorted(os.listdir(dynload)) if os.path.isdir(dynload) else []:
        name = entry.partition(".")[0]
        if not name.startswith(_SKIPPED):
            try:
                importlib.import_module(name)
            except ImportError:
                continue  # an optional module this interpreter was built without
    with contextlib.suppress(OSError):  # pthread_exit loads it on demand; not every C library needs it
        ctypes.CDLL("libgcc_s.so.1")


def _libraries(named: dict[str, list[str]]) -> list[str]:
    """Runs in a child process: importing every extension module is not something a warm worker should carry around."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _import_extensions()
            packages.load(named)
            with open(writer, "w") as file:
                json.dump(_loaded_libraries(), file)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return json.loads(text) if text else _loaded_libraries()


def allowed(named: dict[str, list[str]]) -> Allowed:
    """The allow-list of this machine's interpreter and the packages in `named` (`packages.locate`); Linux only."""
    readable = [sys.executable, os.path.realpath(sys.executable)]
    stdlib = _stdlib_dirs()
    for directory in stdlib:
        readable += [os.path.join(directory, e) for e in sorted(os.listdir(directory)) if e not in _FOREIGN]
    readable += packages.folders(named)
    readable += _libraries(named)
    readable += [p for p in _SYSTEM + DEVICES if os.path.exists(p)]
    return Allowed(list(dict.fromkeys(readable)), stdlib)
