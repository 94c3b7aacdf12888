"""`s0 sweep` from the repository: python scripts/sweep.py --workers 2 method.alpha=0.03,0.07 seed=0..9"""

import sys

from s0.cli import command

if __name__ == "__main__":
    sys.exit(command(["sweep", *sys.argv[1:]], "python run.py"))
