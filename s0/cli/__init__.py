"""The command line: arguments -> plan -> run -> the end of the screen.

`main` is run.py and `s0 run`, `command` the console command with all subcommands. Both say in one line what an
installation lacks.
"""

from __future__ import annotations

import sys

NOT_INSTALLED = (
    "error: {name} is not installed for {python}; in the repository run make run, which sets .venv up, or use its Python "
    "(. .venv/bin/activate); elsewhere pip install the package"
)


def main(argv: list[str] | None = None, program: str = "python run.py") -> int:
    """Run cells; returns the exit code."""
    try:
        # start-up: none; a missing dependency is to be one line
        from s0.cli.commands.run import main as run
    except ModuleNotFoundError as error:
        return _missing(error)
    return run(argv, program)


def command(argv: list[str] | None = None, program: str = "s0 run") -> int:
    """`s0 SUBCOMMAND ...`; returns the exit code."""
    # start-up: none; as above
    from s0.cli.dispatch import dispatch

    try:
        return dispatch(argv, program)
    except ModuleNotFoundError as error:
        return _missing(error)


def _missing(error: ModuleNotFoundError) -> int:
    name = (error.name or "").partition(".")[0]
    if not name or name == "s0":
        raise error
    print(NOT_INSTALLED.format(name=name, python=sys.executable), file=sys.stderr)
    return 2


__all__ = ["command", "main"]
