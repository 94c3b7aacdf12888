"""`s0 families`: the matrix of families x checks."""

from __future__ import annotations

from pathlib import Path

from s0.cli.arguments import Parser
from s0.errors import ConfigError
from s0.storage.files import write_text

DESCRIPTION = """
Print the matrix of families x checks, each cell run on a tiny random model.

  s0 families                      all families
  s0 families qwen3_5 falcon_h1    some
  s0 families --write FILE         also write the documentation page

A cell shows the largest error seen (see s0/state/checks.py) or BROKEN with the
reason below the table; the exit code is 1 if anything is broken. Models that S0
refuses are listed with the reason.
"""


def main(argv: list[str], program: str = "s0 run") -> int:
    parser = Parser("families", DESCRIPTION)
    parser.add_argument("families", nargs="*", help="names as in the first column (default: all)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the documentation page, if all is green")
    args = parser.parse_args(argv)
    if args.families and args.write:
        raise ConfigError("--write: the page speaks of all families; leave the names out")
    import torch

    # start-up: torch
    from s0.state.matrix import chosen, page, print_matrix, refusals, run

    torch.set_num_threads(1)
    names = chosen(args.families)
    green = print_matrix(run(names), {} if args.families else refusals())
    if args.write and green:
        write_text(args.write, page())
        print(f"wrote {args.write}")
    return 0 if green else 1
