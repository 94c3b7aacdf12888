"""Starts a program inside bubblewrap namespaces: no network, no other processes, no files but the allow-list."""

from __future__ import annotations

import os

from s0.sandbox.paths import DEVICES, Allowed


def _place(path: str) -> str:
    """Where a file must appear inside: links in its directory resolved, its own name kept."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def command(bwrap: str, allowed: Allowed, extra: list[str]) -> list[str]:
    """The bubblewrap command line up to, not including, the program. `extra` files are visible beside the allow-list."""
    args = [bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    links = [d for d in ("/bin", "/lib", "/lib32", "/lib64") if os.path.islink(d)]
    for link in links:
        args += ["--symlink", os.readlink(link), link]
    # A standard library is one mount with the third-party folders inside it covered: hundreds of mounts would be slow.
    for directory in allowed.listable:
        args += ["--ro-bind", directory, _place(directory)]
        for entry in sorted(os.listdir(directory)):
            inside = os.path.join(directory, entry)
            if inside not in allowed.readable and os.path.isdir(inside) and not os.path.islink(inside):
                args += ["--tmpfs", os.path.join(_place(directory), entry)]
                args += ["--remount-ro", os.path.join(_place(directory), entry)]
    covered = tuple(d + os.sep for d in allowed.listable)
    for path in [*allowed.readable, *extra]:
        if path in DEVICES:
            args += ["--dev-bind", path, path]
        elif not path.startswith(covered):
            args += ["--ro-bind", path, _place(path)]
    return [*args, "--remount-ro", "/", "--chdir", "/"]
