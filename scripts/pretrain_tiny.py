#!/usr/bin/env python
"""Train the embedded models from scratch on CPU, or check the shipped ones.

    python scripts/pretrain_tiny.py                        # all three, about a quarter of an hour on one core
    python scripts/pretrain_tiny.py --model tiny_gdn --out /tmp/tiny
    python scripts/pretrain_tiny.py --check                # shipped files against their model cards; trains nothing

Needs no network. Weights are the same bit for bit on the same machine and library versions; elsewhere floating-point
rounding may differ, which is why the shipped weights are checked by hash and the recipe by its corpus hash.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from s0.errors import S0Error
from s0.tiny import card, models


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="all", choices=["all", *models.NAMES])
    parser.add_argument("--out", type=Path, default=None, help="folder for the models (default: the shipped ones)")
    parser.add_argument("--steps", type=int, default=None, help="fewer or more steps than the recipe's")
    parser.add_argument("--check", action="store_true", help="verify hashes of the models and change nothing")
    args = parser.parse_args()
    names = models.NAMES if args.model == "all" else (args.model,)
    try:
        for name in names:
            where = args.out / name if args.out else models.embedded_model(name)
            if args.check:
                print(f"{name}: {card.check(name, where)}")
            else:
                print(f"{name}: {card.train_and_save(name, where, args.steps)}")
    except S0Error as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
