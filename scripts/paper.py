"""Build the paper from committed records: python scripts/paper.py [ITEM...]

Writes paper/tables, paper/figures, paper/generated and paper/s0_tuning.pdf. Only what is stale is rebuilt.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from s0.errors import S0Error
from s0.report.paper.build import PaperPaths, build, build_pdf

ROOT = Path(__file__).resolve().parent.parent


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("items", nargs="*", help="items to build (default: all)")
    parser.add_argument("--records", type=Path, help="folder of records by experiment (experiments/records)")
    parser.add_argument("--paper", type=Path, help="folder to build in (paper)")
    parser.add_argument("--no-pdf", action="store_true", help="tables and figures only")
    args = parser.parse_args(argv)
    layout = PaperPaths.of(ROOT, args.paper, args.records)
    try:
        rebuilt = build(layout, args.items)
        if not rebuilt:
            print("tables and figures are up to date")
        if not args.no_pdf:
            build_pdf(layout)
    except S0Error as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
