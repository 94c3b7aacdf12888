"""`s0 families` from the repository: python scripts/families.py --write docs/families.md"""

import sys

from s0.cli import command

if __name__ == "__main__":
    sys.exit(command(["families", *sys.argv[1:]], "python run.py"))
