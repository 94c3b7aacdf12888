"""The system-call filter of untrusted code, as a classic BPF program assembled here in plain Python.

An allow-list: a call that is not named fails with ENOSYS (so that C libraries fall back to what they know) and the
well-known dangerous ones with EPERM. Files can be opened for reading only, `clone` can start threads only, signals reach
the own process only, sockets exist only as connected stream pairs. No libseccomp is needed; numbers are those of
`asm/unistd_64.h` (x86_64) and `asm-generic/unistd.h` (aarch64), layouts those of `linux/seccomp.h`, `linux/filter.h`.
"""

from __future__ import annotations

import struct

EPERM, ENOSYS = 1, 38
RET_ALLOW, RET_ERRNO, RET_KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: system calls of the x32 ABI share x86_64's audit value and start here
X32_BIT = 0x40000000

_LD, _JEQ, _JGE, _AND, _RET = 0x20, 0x15, 0x35, 0x54, 0x06
_NR, _ARCH, _ARGS = 0, 4, 16

Instruction = tuple[int, int, int, int]

# fmt: off
#: name -> (x86_64, aarch64); None where the architecture has no such call. Allowed whatever the arguments.
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # files and directories already reachable for reading
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "close": (3, 57),
    "close_range": (436, 436), "lseek": (8, 62), "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291),
    "getdents64": (217, 61), "faccessat": (269, 48), "faccessat2": (439, 439),
    "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "stat": (4, None), "lstat": (6, None),
    "access": (21, None), "umask": (95, 166),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214),
    # own signals, timers, threads
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigsuspend": (130, 133),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132), "pause": (34, None),
    "restart_syscall": (219, 128), "alarm": (37, None), "setitimer": (38, 103), "getitimer": (36, 102),
    "futex": (202, 98), "set_robust_list": (273, 99), "get_robust_list": (274, 100), "rseq": (334, 293),
    "membarrier": (324, 283), "set_tid_address": (218, 96), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121), "sched_getscheduler": (145, 120), "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126), "getcpu": (309, 168), "exit": (60, 93), "exit_group": (231, 94),
    # who and when
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158), "getresuid": (118, 148),
    "getresgid": (120, 150), "getpgid": (121, 155), "getpgrp": (111, None), "getsid": (124, 156),
    "getpriority": (140, 141), "getrusage": (98, 165), "getrlimit": (97, 163), "times": (100, 153), "uname": (63, 160),
    "sysinfo": (99, 179), "capget": (125, 90), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "gettimeofday": (96, 169), "time": (201, None),
    "getrandom": (318, 278),
    # pipes and waiting, as threads and asyncio use them
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None), "pipe2": (293, 59),
    "eventfd": (284, None), "eventfd2": (290, 19), "epoll_create": (213, None), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22), "poll": (7, None), "ppoll": (271, 73),
    "select": (23, None), "pselect6": (270, 72), "shutdown": (48, 210), "recvfrom": (45, 207),
    "getsockopt": (55, 209), "getsockname": (51, 204), "getpeername": (52, 205),
}

#: refused with EPERM, so that Python raises PermissionError; everything unnamed is refused with ENOSYS
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "socket": (41, 198),
    "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242),
    "sendmsg": (46, 211), "sendmmsg": (307, 269), "recvmsg": (47, 212), "creat": (85, None), "unlink": (87, None),
    "unlinkat": (263, 35), "rmdir": (84, None), "mkdir": (83, None), "mkdirat": (258, 34), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37), "symlink": (88, None),
    "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "truncate": (76, 45), "ftruncate": (77, 46), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "setrlimit": (160, 164), "memfd_create": (319, 279), "io_uring_setup": (425, 425), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "setsid": (112, 157), "setpgid": (109, 154), "unshare": (272, 97),
    "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "chroot": (161, 51), "pivot_root": (155, 41),
    # links tell about files outside the allow-list, and Landlock has no say over them
    "readlink": (89, None), "readlinkat": (267, 78),
    "bpf": (321, 280), "perf_event_open": (298, 241), "keyctl": (250, 219),
}

_OPEN_WRITE = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20000000        # WRONLY RDWR CREAT TRUNC TMPFILE
_CLONE_THREAD, _CLONE_NEW = 0x00010000, 0x7E020000           # CLONE_NEW{CGROUP,UTS,IPC,USER,PID,NET} and NEWNS
_FCNTL = (0, 1, 2, 3, 4, 1030)                               # DUPFD GETFD SETFD GETFL SETFL DUPFD_CLOEXEC: no SETOWN
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)    # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
_PRCTL = (15, 16, 0x53564D41)                                # SET_NAME GET_NAME SET_VMA
_AF_UNIX, _SOCK_STREAM = 1, 1
_BUFFER_SIZES = (7, 8, 32, 33)                               # SO_SNDBUF SO_RCVBUF and their FORCE: memory beyond RLIMIT_AS

#: name -> (x86_64, aarch64, checks): allowed when every check on the arguments holds, else EPERM
CHECKED: dict[str, tuple[int | None, int | None, tuple[tuple, ...]]] = {
    "open": (2, None, (("clear", 1, _OPEN_WRITE),)),
    "openat": (257, 56, (("clear", 2, _OPEN_WRITE),)),
    "clone": (56, 220, (("set", 0, _CLONE_THREAD), ("clear", 0, _CLONE_NEW))),
    "socketpair": (53, 199, (("in", 0, (_AF_UNIX,)), ("masked", 1, 0xF, _SOCK_STREAM))),
    "sendto": (44, 206, (("null", 4),)),
    "setsockopt": (54, 208, (("out", 2, _BUFFER_SIZES),)),
    "fcntl": (72, 25, (("in", 1, _FCNTL),)),
    "ioctl": (16, 29, (("in", 1, _IOCTL),)),
    "prctl": (157, 167, (("in", 0, _PRCTL),)),
    "prlimit64": (302, 261, (("null", 0), ("null", 2))),
    "kill": (62, 129, (("pid", 0),)),
    "tgkill": (234, 131, (("pid", 0),)),
}
# fmt: on


def _check(check: tuple, pid: int) -> list[Instruction]:
    """Instructions that fall through when the check holds and return EPERM otherwise."""
    kind, arg = check[0], check[1]
    low = (_LD, 0, 0, _ARGS + 8 * arg)
    refuse = (_RET, 0, 0, RET_ERRNO | EPERM)
    if kind == "clear":
        return [low, (_AND, 0, 0, check[2]), (_JEQ, 1, 0, 0), refuse]
    if kind == "set":
        return [low, (_AND, 0, 0, check[2]), (_JEQ, 1, 0, check[2]), refuse]
    if kind == "masked":
        return [low, (_AND, 0, 0, check[2]), (_JEQ, 1, 0, check[3]), refuse]
    if kind == "null":
        return [low, (_JEQ, 0, 2, 0), (_LD, 0, 0, _ARGS + 8 * arg + 4), (_JEQ, 1, 0, 0), refuse]
    if kind == "out":
        last = len(check[2]) - 1
        return [low, *((_JEQ, last - i, int(i == last), value) for i, value in enumerate(check[2])), refuse]
    values = (pid,) if kind == "pid" else check[2]
    tests = [(_JEQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [low, *tests, refuse]


def assemble(machine: str, pid: int) -> list[Instruction]:
    """The filter for `machine` ("x86_64" or "aarch64") and the process `pid`, as (code, jt, jf, k) instructions.

    Raises KeyError for another machine.
    """
    column = {"x86_64": 0, "aarch64": 1}[machine]
    program: list[Instruction] = [
        (_LD, 0, 0, _ARCH),
        (_JEQ, 1, 0, AUDIT_ARCH[machine]),
        (_RET, 0, 0, RET_KILL_PROCESS),
        (_LD, 0, 0, _NR),
    ]
    if machine == "x86_64":
        program += [(_JGE, 0, 1, X32_BIT), (_RET, 0, 0, RET_KILL_PROCESS)]
    for row in CHECKED.values():
        number = row[column]
        if number is None:
            continue
        body = [step for check in row[2] for step in _check(check, pid)] + [(_RET, 0, 0, RET_ALLOW)]
        program += [(_JEQ, 0, len(body), number), *body]  # type: ignore[list-item]
    for table, verdict in ((ALLOWED, RET_ALLOW), (REFUSED, RET_ERRNO | EPERM)):
        for pair in table.values():
            if pair[column] is not None:
                program += [(_JEQ, 0, 1, pair[column]), (_RET, 0, 0, verdict)]  # type: ignore[list-item]
    program.append((_RET, 0, 0, RET_ERRNO | ENOSYS))
    return program


def encode(program: list[Instruction]) -> bytes:
    """`struct sock_filter[]`: eight bytes per instruction, little endian on both supported machines."""
    return b"".join(struct.pack("<HBBI", *step) for step in program)


class Filter:
    """The encoded filter of this machine with the process id left open: forked children only patch four bytes."""

    _MARK = 0x5A5A5A5A

    def __init__(self, machine: str):
        code = encode(assemble(machine, self._MARK))
        mark = struct.pack("<HBBI", _JEQ, 1, 0, self._MARK)
        self._parts = code.split(mark)

    def for_pid(self, pid: int) -> bytes:
        return struct.pack("<HBBI", _JEQ, 1, 0, pid).join(self._parts)
