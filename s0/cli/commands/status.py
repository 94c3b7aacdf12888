"""`s0 status`: how far a run, sweep or preset is."""

from __future__ import annotations

from s0.cli.compose import make_plan, parse_args
from s0.sweep.status import print_status

HELP = """\
usage: s0 status ARGUMENTS OF s0 run

How far a run, sweep or preset is: done, running, failed and missing seeds of
every cell. Takes the same arguments as s0 run and starts nothing.

  s0 status experiment=table1_main
  s0 status -m method.alpha=0.03,0.07 seed=0..9

Exit codes: 0 all done, 1 not yet, 2 config.
"""


def main(argv: list[str], program: str = "s0 run") -> int:
    if not {"-h", "--help"}.isdisjoint(argv):
        print(HELP, end="")
        return 0
    return print_status(make_plan(parse_args(argv), program=program).cells)
