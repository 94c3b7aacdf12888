"""Make the records of the paper's tables and figures: every preset, one after the other, from a store of its own.

    python scripts/replicate.py scale=tiny                      # all presets on the embedded models
    python scripts/replicate.py scale=tiny --only table1_main,fig4_divergence
    python scripts/replicate.py seed=42                          # the published models (GPU); any override goes to run.py

Records are made under outputs/replication and replace those of the same models in experiments/records/<preset> when the
preset is done. A run that was interrupted goes on where it stopped; --fresh starts from nothing. A failing preset does not
stop the others and is listed at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "outputs" / "replication"
#: presets that reuse others' records or are not a table or figure of the paper come last
LAST = ("cross_domain", "methods_tiny")


def presets() -> list[str]:
    names = sorted(p.stem for p in (ROOT / "configs" / "experiment").glob("*.yaml"))
    return [n for n in names if n not in LAST] + [n for n in LAST if n in names]


def publish(made: Path, target: Path) -> int:
    """Replace the records of the models in `made` by the new ones; returns how many files were copied."""
    files = [p for p in sorted(made.glob("*")) if p.is_file() and not p.name.startswith(".") and p.suffix != ".lock"]
    models = {json.loads(p.read_text())["model"] for p in files if p.suffix == ".json"}
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.json*"):
        if any(old.name.startswith(f"{m}__") or f".{m}." in old.name for m in models):
            old.unlink()
    kept = [
        p for p in files if p.suffix == ".json" and "__failed-" not in p.name
    ]  # the .jsonl beside a record repeats its completions with prompts
    for p in kept:
        shutil.copy2(p, target / p.name)
    return len(kept)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="comma-separated presets")
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted replication and start from nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "records")
    args, overrides = parser.parse_known_args()
    chosen = args.only.split(",") if args.only else presets()
    unknown = sorted(set(chosen) - set(presets()))
    if unknown:
        parser.error(f"--only {','.join(unknown)}: choose among {', '.join(presets())}")
    if args.fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    failed = []
    for name in chosen:
        start = time.monotonic()
        made = WORK / name
        command = [sys.executable, "run.py", f"experiment={name}", *overrides]
        # relative to the repository, so that records name no path of this machine
        folder = WORK.relative_to(ROOT)
        command += [f"records={folder / name}", f"store={folder / 'store'}", f"out={folder / 'summary' / name}"]
        print(f"== {name}: python run.py experiment={name} {' '.join(overrides)}", flush=True)
        code = subprocess.run(command, cwd=ROOT).returncode
        if code == 130:
            return code
        copied = publish(made, args.out / name) if made.is_dir() else 0
        print(
            f"== {name}: exit code {code}, {copied} record(s) and results, {time.monotonic() - start:.0f} s", flush=True
        )
        if code not in (0, 3):  # 3: no verified solution, which is a result
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}; run again with --only {','.join(failed)}", file=sys.stderr)
        return 4
    if not args.only:  # everything is published: the next replication starts from nothing
        shutil.rmtree(WORK, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
