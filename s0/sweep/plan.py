"""What is to be run: cells with their configs, and the command that runs each again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from s0.config.schema import Config


@dataclass(frozen=True)
class Planned:
    """One cell to run: its resolved config, the overrides of the job it belongs to, and those that compose it alone."""

    config: Config
    overrides: list[str]
    alone: list[str]
    #: overrides it was composed from, and those of them that tell it from the plan's other cells
    own: list[str] = field(default_factory=list)
    note: str = ""
    #: how the user runs a cell; stands before the overrides
    program: str = "python run.py"

    def label(self) -> str:
        """model / task / method and what tells it from its neighbours, as a reader names the cell."""
        return f"{self.config.label}{self.note}"

    @property
    def command(self) -> str:
        return _command(self.program, self.alone)

    def rerun(self, seeds: list[int]) -> str:
        """The command that runs this cell alone for these seeds."""
        if seeds == self.config.seed:
            return self.command
        chosen = f"seed={seeds[0]}" if len(seeds) == 1 else f"seed=[{','.join(map(str, seeds))}]"
        return _command(self.program, [*(o for o in self.alone if key_of(o) != "seed"), chosen])


@dataclass(frozen=True)
class Plan:
    """All cells of a command (`argv`). `launcher` is "basic" or the chosen `hydra/launcher`."""

    cells: list[Planned]
    argv: list[str]
    launcher: str = "basic"


def key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _command(program: str, overrides: list[str]) -> str:
    return " ".join([program, *(shlex.quote(o) for o in overrides)])
