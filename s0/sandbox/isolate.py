"""The kernel mechanisms that confine untrusted code, by raw system calls: rlimits, Landlock, seccomp, capabilities.

Runs inside the worker processes, so it imports the standard library only. Every function either does what it says or
raises OSError; which mechanisms a machine offers is decided by trying them (`candidate.py`), never by version numbers.
Sources: Documentation/userspace-api/landlock.rst, prctl(2), seccomp(2), capabilities(7).
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable

LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 4, 22, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_SECCOMP_MODE_FILTER = 2
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
#: rights over files known to each Landlock ABI version, as the number of low bits
_LANDLOCK_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3

_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None


def _call(function: str, *args: int | bytes | None) -> int:
    if _libc is None:
        raise OSError(f"{function}: not available on {sys.platform}")
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = getattr(_libc, function)(*words)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
    return int(result)


def _prctl(option: int, value: int = 0) -> None:
    _call("prctl", option, value, 0, 0, 0)


# -- process relations -------------------------------------------------------------------------------------------------


def die_with_parent(parent: int) -> None:
    """SIGKILL this process when the thread that started it ends; exits at once when `parent` is gone already."""
    if LINUX:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Make this process the parent of orphaned descendants, so that `kill_descendants` finds them."""
    if LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> None:
    """No other unprivileged process may read /proc/<pid>/mem, attach, or dump core."""
    if LINUX:
        _prctl(_PR_SET_DUMPABLE, 0)


def _children() -> list[int]:
    me, found = os.getpid(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == me:
                found.append(int(name))
    return found


def kill_descendants() -> None:
    """SIGKILL and reap everything below this process; needs `adopt_orphans` and a readable /proc."""
    if not LINUX:
        return
    while True:
        children = _children()
        if not children:
            return
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                continue


# -- limits and privileges ---------------------------------------------------------------------------------------------


def set_limits(memory: int, cpu_seconds: int) -> None:
    """Address space in bytes, CPU time in seconds; no core files, no file growth, few descriptors."""
    limits = {
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_FSIZE": (0, 0),
        "RLIMIT_NOFILE": (128, 128),
        "RLIMIT_MSGQUEUE": (0, 0),
        "RLIMIT_MEMLOCK": (0, 0),
        "RLIMIT_CPU": (cpu_seconds, cpu_seconds + 1),
        "RLIMIT_AS": (memory, memory),
    }
    for name, pair in limits.items():
        number = getattr(resource, name, None)
        if number is None:
            continue
        hard = resource.getrlimit(number)[1]
        if hard != resource.RLIM_INFINITY:
            pair = (min(pair[0], hard), min(pair[1], hard))
        try:
            resource.setrlimit(number, pair)
        except (ValueError, OSError):
            if LINUX:
                raise
            # macOS refuses RLIMIT_AS; that is one of the reasons its tier is called reduced


def drop_privileges() -> None:
    """Give up every capability and every way of regaining one."""
    for capability in range(64):
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except OSError:
            break
    _prctl_no_new_privs()
    drop_capabilities()


def drop_capabilities() -> None:
    """Give up every capability held; enough where executing programs is forbidden anyway."""
    header, nothing = struct.pack("<Ii", 0x20080522, 0), bytes(24)
    _call("capset", header, nothing)


def _prctl_no_new_privs() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


# -- Landlock ----------------------------------------------------------------------------------------------------------


def ruleset(readable: Iterable[str], listable: Iterable[str] = ()) -> int:
    """Descriptor of a Landlock rule set for `restrict`: no file but those below `readable`, for reading only.

    Directories below `listable` may be listed, their files not opened.

    Binding and connecting TCP sockets, abstract sockets and signals to outside processes are refused as well where the
    kernel's version knows how. Missing paths are skipped. Raises OSError when the kernel has no Landlock.
    """
    abi = _call("syscall", _LANDLOCK_CREATE, None, 0, 1)
    files = (1 << _LANDLOCK_FS_BITS.get(abi, 16)) - 1
    attributes = struct.pack("<QQQ", files, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    made = _call("syscall", _LANDLOCK_CREATE, attributes, size, 0)
    try:
        wanted = [(p, _READ_FILE | _READ_DIR if os.path.isdir(p) else _READ_FILE) for p in readable]
        for path, rights in wanted + [(p, _READ_DIR) for p in listable]:
            try:
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                _call("syscall", _LANDLOCK_ADD, made, 1, struct.pack("<Qi", rights, fd), 0)
            finally:
                os.close(fd)
    except OSError:
        os.close(made)
        raise
    return made


def restrict(made: int) -> None:
    """Put this process and its future children under a rule set, for good."""
    _prctl_no_new_privs()
    _call("syscall", _LANDLOCK_RESTRICT, made, 0)


# -- seccomp -----------------------------------------------------------------------------------------------------------


def machine() -> str:
    """Architecture name of the running interpreter: "x86_64", "aarch64", or what the system calls it."""
    name = platform.machine()
    if name in ("x86_64", "aarch64", "AMD64", "arm64") and struct.calcsize("P") != 8:
        return f"32-bit {name}"
    return name


def install_filter(code: bytes) -> None:
    """Install an encoded seccomp filter (`seccomp.Filter.for_pid`) on this thread and its future threads."""
    _prctl_no_new_privs()
    array = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(array))
    _call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0)
