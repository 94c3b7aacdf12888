"""`s0 status` from the repository: python scripts/status.py experiment=table1_main"""

import sys

from s0.cli import command

if __name__ == "__main__":
    sys.exit(command(["status", *sys.argv[1:]], "python run.py"))
