"""Write one self-contained HTML page about records: python scripts/report.py experiments/records -o report.html"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from s0.errors import S0Error
from s0.report.html import write_report


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", nargs="+", type=Path, help="record files, or folders searched recursively")
    parser.add_argument("-o", "--out", type=Path, default=Path("report.html"), help="the page to write (report.html)")
    parser.add_argument("--title", default="S0 tuning: results", help="title of the page")
    args = parser.parse_args(argv)
    try:
        path = write_report(args.records, args.out, args.title)
    except S0Error as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"wrote {path} ({path.stat().st_size / 1024:.0f} kB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
