"""Draw the paper's figures from committed records: python scripts/figures.py [--out DIR]

The same builders as scripts/paper.py, figures alone, always redrawn; with --out into another folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from s0.errors import ConfigError, S0Error
from s0.report.paper.build import PaperPaths
from s0.report.paper.context import Context
from s0.report.paper.items import ITEMS
from s0.report.plots import save_figure

ROOT = Path(__file__).resolve().parent.parent


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("items", nargs="*", help="items whose figures to draw (default: all)")
    parser.add_argument("--records", type=Path, help="folder of records by experiment (experiments/records)")
    parser.add_argument("--out", type=Path, default=ROOT / "paper" / "figures", help="folder to write to")
    args = parser.parse_args(argv)
    layout = PaperPaths.of(ROOT, records=args.records)
    context = Context(layout.records, layout.published, layout.configs)
    try:
        unknown = [n for n in args.items if n not in ITEMS]
        if unknown:
            raise ConfigError(f"item {unknown[0]!r}: unknown; choose from {', '.join(ITEMS)}")
        for name in args.items or ITEMS:
            for stem, figure in ITEMS[name].build(context).figures.items():
                for path in save_figure(figure, args.out / stem):
                    print(f"wrote {path}")
    except S0Error as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
