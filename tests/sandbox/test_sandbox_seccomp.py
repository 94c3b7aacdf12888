"""The filter itself, run by a small interpreter of classic BPF for both machines, and against the system's own headers."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from s0.sandbox import seccomp
from s0.sandbox.seccomp import ALLOWED, CHECKED, REFUSED, RET_ALLOW, RET_ERRNO, RET_KILL_PROCESS

MACHINES = ("x86_64", "aarch64")
PID = 4321
EPERM, ENOSYS = RET_ERRNO | 1, RET_ERRNO | 38


def decide(machine: str, number: int, *args: int, arch: int | None = None) -> int:
    """What the kernel would do: interprets the encoded program over `struct seccomp_data`."""
    data = struct.pack(
        "<iIQ6Q", number, seccomp.AUDIT_ARCH[machine] if arch is None else arch, 0, *(*args, *[0] * 6)[:6]
    )
    code = seccomp.Filter(machine).for_pid(PID)
    program = [struct.unpack_from("<HBBI", code, i) for i in range(0, len(code), 8)]
    accumulator, at = 0, 0
    while True:
        operation, jump_true, jump_false, k = program[at]
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif operation == 0x54:
            accumulator &= k
        elif operation == 0x15:
            at += jump_true if accumulator == k else jump_false
        elif operation == 0x35:
            at += jump_true if accumulator >= k else jump_false
        elif operation == 0x06:
            return k
        else:
            raise AssertionError(f"unknown operation {operation:#x}")


def number_of(machine: str, name: str) -> int:
    row = {**ALLOWED, **REFUSED, **CHECKED}[name]
    number = row[MACHINES.index(machine)]
    if number is None:
        pytest.skip(f"{machine} has no {name}")
    return number


@pytest.mark.parametrize("machine", MACHINES)
def test_every_call_number_gets_the_decision_of_its_table(machine: str) -> None:
    column = MACHINES.index(machine)
    expected = {row[column]: RET_ALLOW for row in ALLOWED.values()} | {row[column]: EPERM for row in REFUSED.values()}
    checked = {row[column] for row in CHECKED.values()}
    for number in range(600):
        if number not in checked:
            assert decide(machine, number) == expected.get(number, ENOSYS), number


@pytest.mark.parametrize("machine", MACHINES)
def test_program_is_valid(machine: str) -> None:
    """What the kernel's checker demands: a known length, forward jumps inside the program, a return at the end."""
    program = seccomp.assemble(machine, PID)
    assert len(program) < 4096
    for at, (operation, jump_true, jump_false, _) in enumerate(program):
        if operation in (0x15, 0x35):
            assert at + 1 + max(jump_true, jump_false) < len(program)
            assert max(jump_true, jump_false) < 256
    assert program[-1][0] == 0x06
    assert seccomp.encode(program) == seccomp.Filter(machine).for_pid(PID)


def test_names_and_numbers_are_unique() -> None:
    for column in (0, 1):
        numbers = [
            row[column] for table in (ALLOWED, REFUSED, CHECKED) for row in table.values() if row[column] is not None
        ]
        assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize(
    ("path", "column", "renamed"),
    [
        ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 0, {}),
        ("/usr/include/asm-generic/unistd.h", 1, {"newfstatat": "fstatat"}),
    ],
)
def test_numbers_are_those_of_the_system_headers(path: str, column: int, renamed: dict[str, str]) -> None:
    if not Path(path).exists():
        pytest.skip(f"{path} is not installed")
    known = {m[1]: int(m[2]) for m in re.finditer(r"#define\s+__NR(?:3264)?_(\w+)\s+(\d+)", Path(path).read_text())}
    for table in (ALLOWED, REFUSED, CHECKED):
        for name, row in table.items():
            assert row[column] == known.get(renamed.get(name, name)) or (row[column] is None and column == 1), name


@pytest.mark.parametrize("machine", MACHINES)
def test_other_architectures_are_killed(machine: str) -> None:
    assert decide(machine, 0, arch=0x40000003) == RET_KILL_PROCESS  # i386
    if machine == "x86_64":
        assert decide(machine, 0x40000000) == RET_KILL_PROCESS  # x32
        assert decide(machine, -1) == RET_KILL_PROCESS


ARGUMENTS = [
    ("openat", (0, 0, 0), RET_ALLOW),
    ("openat", (0, 0, 0o2000000), RET_ALLOW),  # O_CLOEXEC
    ("openat", (0, 0, 0o1), EPERM),  # O_WRONLY
    ("openat", (0, 0, 0o2), EPERM),  # O_RDWR
    ("openat", (0, 0, 0o100), EPERM),  # O_CREAT
    ("openat", (0, 0, 0o1000), EPERM),  # O_TRUNC
    ("openat", (0, 0, 0o20200000), EPERM),  # O_TMPFILE
    ("openat", (0, 0, (7 << 32) | 0o1), EPERM),
    ("clone", (0x003D0F00,), RET_ALLOW),  # what pthread_create asks for
    ("clone", (0x01200011,), EPERM),  # what fork asks for
    ("clone", (0x00004111,), EPERM),  # what posix_spawn asks for
    ("clone", (0x10010000,), EPERM),  # CLONE_NEWUSER beside CLONE_THREAD
    ("socketpair", (1, 1), RET_ALLOW),
    ("socketpair", (1, 1 | 0o2004000), RET_ALLOW),  # SOCK_CLOEXEC | SOCK_NONBLOCK
    ("socketpair", (1, 2), EPERM),  # a datagram socket can send to any address
    ("socketpair", (2, 1), EPERM),
    ("sendto", (3, 99, 1, 0, 0), RET_ALLOW),
    ("sendto", (3, 99, 1, 0, 0x7FFF0000), EPERM),
    ("sendto", (3, 99, 1, 0, 0x7FFF00000000), EPERM),
    ("setsockopt", (3, 1, 2), RET_ALLOW),  # SO_REUSEADDR
    ("setsockopt", (3, 1, 7), EPERM),  # SO_SNDBUF
    ("setsockopt", (3, 1, 8), EPERM),
    ("setsockopt", (3, 1, 33), EPERM),  # SO_RCVBUFFORCE
    ("readlink", (0, 0, 0), EPERM),
    ("fcntl", (3, 1), RET_ALLOW),
    ("fcntl", (3, 1030), RET_ALLOW),
    ("fcntl", (3, 8), EPERM),  # F_SETOWN
    ("fcntl", (3, 10), EPERM),  # F_SETSIG
    ("fcntl", (3, 1031), EPERM),  # F_SETPIPE_SZ
    ("ioctl", (0, 0x5401), RET_ALLOW),  # TCGETS
    ("ioctl", (0, 0x5412), EPERM),  # TIOCSTI
    ("ioctl", (0, 0x8901), EPERM),  # FIOSETOWN
    ("prctl", (15,), RET_ALLOW),  # PR_SET_NAME
    ("prctl", (22,), EPERM),  # PR_SET_SECCOMP
    ("prctl", (4, 1), EPERM),  # PR_SET_DUMPABLE
    ("prlimit64", (0, 7, 0, 99), RET_ALLOW),  # getrlimit
    ("prlimit64", (0, 7, 99, 0), EPERM),
    ("prlimit64", (77, 7, 0, 99), EPERM),
    ("prlimit64", (0, 7, 1 << 40, 0), EPERM),
    ("kill", (PID, 9), RET_ALLOW),
    ("kill", (PID + 1, 9), EPERM),
    ("kill", (0, 9), EPERM),
    ("kill", (0xFFFFFFFF, 9), EPERM),
    ("tgkill", (PID, PID, 6), RET_ALLOW),
    ("tgkill", (1, 1, 6), EPERM),
]


@pytest.mark.parametrize(("name", "args", "decision"), ARGUMENTS)
@pytest.mark.parametrize("machine", MACHINES)
def test_arguments(machine: str, name: str, args: tuple[int, ...], decision: int) -> None:
    assert decide(machine, number_of(machine, name), *args) == decision


def test_unknown_machine() -> None:
    with pytest.raises(KeyError):
        seccomp.Filter("riscv64")
