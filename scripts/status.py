"""How far a run, sweep or preset is: done, running, failed and missing seeds of every cell.

python scripts/status.py -m method.alpha=0.03,0.07 seed=0..9
python scripts/status.py +experiment=table1_main

Takes the same arguments as run.py and starts nothing. Exit codes: 0 all done, 1 not yet, 2 config.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from s0.cli.compose import make_plan, parse_args
from s0.errors import S0Error


def main(argv: list[str]) -> int:
    if not {"-h", "--help"}.isdisjoint(argv):
        print(__doc__)
        return 0
    try:
        cells = make_plan(parse_args(argv)).cells
        from s0.sweep.status import print_status

        return print_status(cells)
    except S0Error as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
