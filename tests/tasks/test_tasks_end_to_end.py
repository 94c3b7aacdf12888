"""Every benchmark through the whole runner with an embedded model: sampled, graded, recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "kinds"),
    [("math500", {"wrong"}), ("gsm8k", {"wrong", "pass"}), ("spider", {"error", "wrong", "pass"})],
)
def test_run_writes_a_record(tmp_path, task, kinds):
    options = [
        f"task={task}", f"task.path=tests/data/{task}", "model=tiny_gdn", "method=none", "seed=0", "task.n_train=2",
        "task.n_eval=3", "task.samples_per_problem=1", "task.max_new_tokens=8", "engine.threads=1",
        f"store={tmp_path}/store", f"records={tmp_path}/records", f"out={tmp_path}/out",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "run.py", *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = (tmp_path / "records").glob("*.json")
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["status"] == "ok"
    assert record["task_info"]["name"] == task
    assert record["task_info"]["dataset_hash"]
    assert f"tests/data/{task}" in record["task_info"]["source"]
    outcomes = record["baseline"]["outcomes"]
    assert len(outcomes) == 3
    assert {o["verdict"]["kind"] for o in outcomes} <= kinds
    breakdowns = {"math500": {"level", "subject"}, "gsm8k": set(), "spider": {"db_id"}}[task]
    assert all(set(o["meta"]) == breakdowns for o in outcomes)
    if task == "spider":
        assert all(o["verdict"]["detail"].startswith("official match") for o in outcomes)
