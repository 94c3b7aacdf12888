"""`s0 store`: what a store holds."""

from __future__ import annotations

from pathlib import Path

from s0.cli.arguments import Parser
from s0.errors import DataError

DESCRIPTION = """
What a store of finished work holds: entries and size of each kind.

  s0 store                   outputs/store
  s0 store DIR

Nothing is changed. A store may be deleted as a whole: records stay, and what
was in it is computed again when it is asked for.
"""


def main(argv: list[str], program: str = "s0 run") -> int:
    parser = Parser("store", DESCRIPTION)
    parser.add_argument("store", nargs="?", type=Path, default=Path("outputs/store"), help="folder (outputs/store)")
    folder = parser.parse_args(argv).store
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the store of a run (its store=...)")
    total = 0
    for kind in sorted(p for p in folder.iterdir() if p.is_dir()):
        size = sum(f.stat().st_size for f in kind.rglob("*") if f.is_file())
        total += size
        print(f"  {kind.name:<24}{sum(1 for _ in kind.iterdir()):>7} entries {size / 2**20:>10.1f} MiB")
    print(f"{folder}: {total / 2**20:.1f} MiB")
    return 0
