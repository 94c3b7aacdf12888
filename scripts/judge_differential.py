"""The differential suite's table: own honest and wrong programs in the sandbox against a plain interpreter.

    python scripts/judge_differential.py [--markdown]

Exits with 1 when a program is judged differently from what it does ("unjudged" is not a judgement).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "sandbox")]

import differential  # noqa: E402

from s0.sandbox import Sandbox  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="the table as it stands in docs/sandbox.md")
    args = parser.parse_args()
    with Sandbox() as sandbox:
        rows = differential.compare(sandbox)
        tier = sandbox.tier
    outcomes = ("same", "unjudged", "failed falsely", "passed falsely")
    lines = []
    for honest in (True, False):
        mine = [r for r in rows if r.honest == honest]
        lines.append(
            ["honest" if honest else "wrong", len(mine), sum(r.plain for r in mine)]
            + [sum(r.outcome == o for r in mine) for o in outcomes]
        )
    heads = ["programs", "number", "pass in a plain interpreter", *outcomes]
    if args.markdown:
        print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
        for line in lines:
            print("| " + " | ".join(map(str, line)) + " |")
    else:
        print(tier)
        for line in [heads, *lines]:
            print("  ".join(f"{v!s:>{max(len(h), 8)}}" for v, h in zip(line, heads, strict=True)))
    for r in rows:
        if r.outcome != "same" or r.plain != r.honest:
            print(
                f"{r.outcome}: {r.name}: judged {r.verdict.kind} ({r.verdict.detail[:160]}); plain {r.words or 'passes'}"
            )
    sys.exit(any(r.outcome.endswith("falsely") or r.plain != r.honest for r in rows))


if __name__ == "__main__":
    main()
