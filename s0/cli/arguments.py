"""Options of the subcommands: argparse with errors of one line and help that fits 80 columns."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any, NoReturn

from s0.errors import ConfigError, suggest


class Parser(argparse.ArgumentParser):
    """`description` keeps its own line breaks. Errors are ConfigErrors that name the nearest option."""

    def __init__(self, command: str, description: str, **kwargs: Any):
        super().__init__(
            prog=f"s0 {command}",
            description=textwrap.dedent(description).strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **kwargs,
        )

    def error(self, message: str) -> NoReturn:
        options = sorted(o for a in self._actions for o in a.option_strings if o.startswith("--"))
        unknown = message.partition("unrecognized arguments: ")[2].split()
        if unknown:
            raise ConfigError(f"{unknown[0]}: unknown option; {suggest(unknown[0], options)}")
        raise ConfigError(f"{message}; see {self.prog} --help")
