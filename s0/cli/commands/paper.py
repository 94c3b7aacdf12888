"""`s0 paper`: the paper's tables, figures and PDF, from records."""

from __future__ import annotations

from pathlib import Path

from s0.cli.arguments import Parser
from s0.errors import DataError
from s0.paths import CONFIGS, PAPER_SOURCE, PUBLISHED, ROOT

DESCRIPTION = """
Build the paper's tables, figures and PDF from records. Only what is stale is
built again.

  s0 paper                                       in the repository
  s0 paper --records outputs/records --paper DIR elsewhere
  s0 paper table1 fig4                           some items

Writes DIR/tables, DIR/figures, DIR/generated and, where the paper's source is
there and LaTeX is installed, the PDF.
"""


def main(argv: list[str], program: str = "s0 run") -> int:
    parser = Parser("paper", DESCRIPTION)
    parser.add_argument("items", nargs="*", help="items to build (default: all)")
    parser.add_argument("--records", type=Path, help="folder of records by experiment (experiments/records)")
    parser.add_argument("--paper", type=Path, help="folder to build in (paper)")
    parser.add_argument("--no-pdf", action="store_true", help="tables and figures only")
    args = parser.parse_args(argv)
    records, paper = (args.records or ROOT / "experiments" / "records"), (args.paper or ROOT / "paper")
    if not records.is_dir():
        raise DataError(
            f"--records {records}: no such folder; give the folder that holds a folder of records per preset"
        )
    if not args.paper and not PAPER_SOURCE.is_file():
        raise DataError(
            "--paper: this installation has no folder of the paper; give the folder to build in: --paper DIR"
        )
    # start-up: scipy, matplotlib
    from s0.report.paper.build import PaperPaths, build, build_pdf

    layout = PaperPaths(ROOT, paper, records, PUBLISHED, CONFIGS)
    if not build(layout, args.items):
        print("tables and figures are up to date")
    if not args.no_pdf and (paper / PAPER_SOURCE.name).is_file():
        build_pdf(layout)
    return 0
