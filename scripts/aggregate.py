"""`s0 aggregate` from the repository: python scripts/aggregate.py experiments/records [--out DIR]"""

import sys

from s0.cli import command

if __name__ == "__main__":
    sys.exit(command(["aggregate", *sys.argv[1:]], "python run.py"))
