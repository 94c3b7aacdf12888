"""`python -m s0 SUBCOMMAND ...`: the console command without its script."""

import sys

from s0.cli import command

if __name__ == "__main__":
    sys.exit(command())
