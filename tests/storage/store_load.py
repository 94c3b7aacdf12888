"""A process that does store work like a run's, on tiny payloads: claims, log appends, folders written whole, records.

python store_load.py ROOT GROUPS UNITS PAUSE_S SEED     works until all is done, then exits 0
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from s0.data import Outcome, Verdict
from s0.storage.records import Evaluation, Record, TrainingSummary, find_record, write_record
from s0.storage.store import Store


def value(group: int, unit: int) -> dict[str, Any]:
    """What unit `unit` of a group must hold: determined by its name, from a few bytes to tens of kilobytes, any text."""
    rng = random.Random(f"{group}:{unit}")
    text = rng.choice(['é\n"\\', "x", "\u2028{}"]) * rng.choice([1, 50, 5000])
    return {
        "text": text,
        "ids": [rng.randrange(100) for _ in range(rng.choice([1, 100]))],
        "group": group,
        "unit": unit,
    }


def weights(group: int) -> bytes:
    return hashlib.sha256(f"weights {group}".encode()).digest() * 1000


OUTCOMES = Evaluation("x", "greedy", [Outcome("P/0", "y", Verdict("pass"), 1, 1)])


def record(group: int) -> Record:
    return Record(
        key=f"{group:016x}", status="ok", experiment="", model="m", task="t", method="s0", seed=group, alpha=None, error=None,
        config={"group": group}, config_hash=f"{group:016x}", model_info={}, task_info={}, method_info={},
        training=TrainingSummary(losses=[group / 7] * 50), baseline=OUTCOMES, tuned=OUTCOMES, controls={}, baseline_key="",
        environment={}, wall_s={}, created="2030-01-01T00:00:00Z",
    )  # fmt: skip


def work(root: Path, groups: int, units: int, pause: float, seed: int) -> None:
    store, records, rng = Store(root / "store"), root / "records", random.Random(seed)
    order = list(range(groups))
    rng.shuffle(order)
    for wait in (False, True):
        for g in order:
            with store.claim(f"group-{g}", wait=wait) as mine:
                if not mine:
                    continue
                log = store.log("completions", f"{g:04d}")
                missing = [u for u in range(units) if str(u) not in log.refresh()]
                while missing:
                    now, missing = missing[:2], missing[2:]
                    time.sleep(pause)
                    log.append({str(u): value(g, u) for u in now})
                    store.log("verdicts", "shared").append({f"{g}:{u}": [g, u] for u in now})  # many writers, no claim
                if not store.has_folder("adapters", str(g)):
                    with store.new_folder("adapters", str(g)) as folder:
                        (folder / "states.bin").write_bytes(weights(g))
                        time.sleep(pause)
                        (folder / "meta.json").write_text(json.dumps({"group": g}))
                if find_record(records, record(g).key) is None:
                    write_record(records, record(g), [value(g, u) for u in range(units)])


if __name__ == "__main__":
    print("begun", flush=True)
    work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
