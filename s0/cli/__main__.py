"""`python -m s0.cli`: the same as `python -m s0` and the console command."""

import sys

from s0.cli import command

if __name__ == "__main__":
    sys.exit(command())
