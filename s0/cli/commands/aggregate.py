"""`s0 aggregate`: one table over any records."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from s0.cli.arguments import Parser
from s0.errors import StoreError

DESCRIPTION = """
Aggregate records into one table.

  s0 aggregate outputs/records
  s0 aggregate outputs/records --out outputs/table

Prints the table (and pass@k where answers were sampled); with --breakdown also
by level, checkpoint or database; with --out writes table.{txt,md,csv,tex},
summary.{png,pdf}, pass_at_k.* and by_<column>.* there.
"""


def main(argv: list[str], program: str = "s0 run") -> int:
    parser = Parser("aggregate", DESCRIPTION)
    parser.add_argument("records", nargs="+", type=Path, help="record files, or folders searched recursively")
    parser.add_argument("--out", type=Path, help="folder for the table and the figure")
    parser.add_argument("--breakdown", action="store_true", help="also accuracy by level, checkpoint or database")
    parser.add_argument("--title", default="", help="title above the table")
    args = parser.parse_args(argv)
    # start-up: scipy
    from s0.report import breakdown_text, load_records, summary_table, write_summary

    # start-up: scipy
    from s0.report.screen import screen_table

    records = load_records(args.records)
    if not records:
        raise StoreError(f"{' '.join(map(str, args.records))}: no records there; run an experiment first ({program})")
    whole = not sys.stdout.isatty()  # a file or pipe gets every column
    width = shutil.get_terminal_size((80, 24)).columns
    print(summary_table(records, args.title) if whole else screen_table(records, width, args.title), end="")
    if args.breakdown:
        none = "no breakdown: these tasks have no level, checkpoint or database\n"
        print("\n" + (breakdown_text(records) or none), end="")
    if args.out:
        for path in write_summary(records, args.out, args.title):
            print(f"wrote {path}")
    return 0
