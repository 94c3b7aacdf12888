"""The command line: arguments -> plan -> run -> the end of the screen."""

from s0.cli.main import main

__all__ = ["main"]
