"""The console command: `s0 SUBCOMMAND ...`. Every script of the repository is a face of one of these.

A subcommand is a module of s0.cli.commands with `main(argv, program)`; `program` is how this user runs a cell
("s0 run", "python run.py"). It is imported when it is asked for, so that help and errors cost no start-up.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from s0 import __version__
from s0.errors import ConfigError, S0Error, suggest

#: subcommand -> one line of help
COMMANDS = {
    "run": "run cells: sample, verify, train, evaluate, record",
    "sweep": "run a sweep on all devices of this machine",
    "status": "what of a run, sweep or preset is done, running, failed",
    "aggregate": "one table and figure over any records",
    "report": "one HTML page with every answer of any records",
    "export": "a learned state as files others can load",
    "store": "what the store holds, and how large it is",
    "families": "check every model family on a tiny random model",
    "paper": "tables, figures and PDF of the paper, from records",
    "serve": "serve a model with many states over HTTP",
}
#: announced, and not there yet
ABSENT = {
    "serve": "not built yet; until it is, s0.StateBank serves many states on one model from Python (docs/library.md)",
}
USAGE = """\
usage: s0 SUBCOMMAND ...

S0 tuning: learn the state that the recurrent layers of a hybrid language model
start from, and measure what it does.

{commands}

  s0 run                                     the embedded default, on a CPU
  s0 run model=qwen35_4b task=humaneval      a cell of the paper (GPU)
  s0 SUBCOMMAND --help                       options of a subcommand
  s0 --version

Without the console command: python -m s0 SUBCOMMAND ...
"""


def usage() -> str:
    return USAGE.format(commands="\n".join(f"  {name:<11}{text}" for name, text in COMMANDS.items()))


def version() -> str:
    return f"s0 {__version__} (Python {sys.version.split()[0]})"


def dispatch(argv: list[str] | None = None, program: str = "s0 run") -> int:
    """Run a subcommand and return its exit code. Expected errors are one line on stderr; tracebacks are bugs."""
    words = sys.argv[1:] if argv is None else argv
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(usage(), end="")
            return 0 if words else ConfigError.exit_code
        if words[0] in ("--version", "-V"):
            print(version())
            return 0
        name, rest = words[0], words[1:]
        if name in ABSENT:
            raise S0Error(f"{name}: {ABSENT[name]}")
        if name not in COMMANDS:
            raise ConfigError(f"{name}: no such subcommand; {suggest(name, list(COMMANDS))}")
        return import_module(f"s0.cli.commands.{name}").main(rest, program)
    except S0Error as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `s0 status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
