"""`s0 report` from the repository: python scripts/report.py experiments/records -o report.html"""

import sys

from s0.cli import command

if __name__ == "__main__":
    sys.exit(command(["report", *sys.argv[1:]], "python run.py"))
