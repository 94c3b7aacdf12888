"""What a command would do, without doing it: cells, seeds, and which records exist already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s0.config import config_hash
from s0.records import Record, find_records, read_record


def existing(config: dict[str, Any]) -> dict[int, Record]:
    """Finished records of a cell by seed, matched by config hash (no model or data is read)."""
    folder = Path(config["records"])
    if not folder.is_dir():
        return {}
    wanted = config_hash(config)
    found = {}
    for path in find_records([folder]):
        record = read_record(path)
        if record.config_hash == wanted and record.status != "failed" and record.seed in config["seed"]:
            found[record.seed] = record
    return found


def print_plan(cells: list[dict[str, Any]]) -> None:
    total = done = 0
    for config in cells:
        have = existing(config)
        missing = [s for s in config["seed"] if s not in have]
        total, done = total + len(config["seed"]), done + len(have)
        name = config["model"]["name"] or config["model"]["path"]
        alpha = config["method"].get("alpha")
        print(
            f"  {name} / {config['task']['name']} / {config['method']['name']}"
            f"{f' alpha={alpha}' if alpha is not None else ''}: {len(have)} of {len(config['seed'])} records exist"
            f"{', to run: seeds ' + ','.join(map(str, missing)) if missing else ''}"
        )
    print(f"{len(cells)} cell(s), {total} record(s), {done} exist, {total - done} to run")
