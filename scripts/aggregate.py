"""Aggregate records into one table: python scripts/aggregate.py experiments/records [--out DIR]

Prints the table (and pass@k where answers were sampled); with --breakdown also by level, checkpoint or database; with --out
writes table.{txt,md,csv,tex}, summary.{png,pdf}, pass_at_k.* and by_<column>.* there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from s0.errors import S0Error, StoreError
from s0.report import breakdown_text, load_records, summary_table, write_summary


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", type=Path, help="record files, or folders searched recursively")
    parser.add_argument("--out", type=Path, help="folder for the table and the figure")
    parser.add_argument("--breakdown", action="store_true", help="also accuracy by level, checkpoint or database")
    parser.add_argument("--title", default="", help="title above the table")
    args = parser.parse_args(argv)
    try:
        records = load_records(args.records)
        if not records:
            raise StoreError(
                f"{' '.join(map(str, args.records))}: no records there; run an experiment first (make run)"
            )
        print(summary_table(records, args.title), end="")
        if args.breakdown:
            print(
                "\n" + (breakdown_text(records) or "no breakdown: these tasks have no level, checkpoint or database\n"),
                end="",
            )
        if args.out:
            for path in write_summary(records, args.out, args.title):
                print(f"wrote {path}")
    except S0Error as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
