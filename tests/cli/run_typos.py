"""Run many command lines through run.py's main in one fresh process; print what each did as JSON. Used by test_typos."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from s0.cli.commands.run import main

HEAVY = ("torch", "transformers", "datasets", "wandb", "ray")


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("a connection was opened")


def run(argv: list[str]) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "heavy": [m for m in HEAVY if m in sys.modules]}


if __name__ == "__main__":
    socket.socket.connect = refuse  # type: ignore[method-assign]
    print(json.dumps([run(argv) for argv in json.load(sys.stdin)]))
