"""`s0 paper` from the repository: python scripts/paper.py [ITEM...]"""

import sys

from s0.cli import command

if __name__ == "__main__":
    sys.exit(command(["paper", *sys.argv[1:]], "python run.py"))
