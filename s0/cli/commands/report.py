"""`s0 report`: one HTML page about records."""

from __future__ import annotations

from pathlib import Path

from s0.cli.arguments import Parser

DESCRIPTION = """
Write one self-contained HTML page about records: every completion before and
after, with its verdict.

  s0 report outputs/records -o report.html
"""


def main(argv: list[str], program: str = "s0 run") -> int:
    parser = Parser("report", DESCRIPTION)
    parser.add_argument("records", nargs="+", type=Path, help="record files, or folders searched recursively")
    parser.add_argument("-o", "--out", type=Path, default=Path("report.html"), help="the page to write (report.html)")
    parser.add_argument("--title", default="S0 tuning: results", help="title of the page")
    args = parser.parse_args(argv)
    # start-up: scipy
    from s0.report.html import write_report

    path = write_report(args.records, args.out, args.title)
    print(f"wrote {path} ({path.stat().st_size / 1024:.0f} kB)")
    return 0
