"""Tracking with wandb: one finished run per seed, offline without a key, and readable by wandb's own reader."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from wandb_server import wandb_server

from s0.config.schema import WandbTracking
from s0.data import Outcome, Verdict
from s0.storage.records import Evaluation, Record, TrainingSummary
from s0.tracking.base import TrackingError, track
from s0.tracking.wandb import mode, problem_rows, summary, tags

pytest.importorskip("wandb", reason="wandb is not installed (pip install 'wandb>=0.19')")


def evaluation(label: str, passed: str) -> Evaluation:
    return Evaluation(
        label,
        "greedy",
        [
            Outcome(f"p/{n}", f"{label} answer {n}", Verdict("pass" if c == "1" else "wrong"), 1, int(c == "1"))
            for n, c in enumerate(passed)
        ],
    )


def record(seed: int, status: str = "ok") -> Record:
    ok = status == "ok"
    return Record(
        key=f"{seed:016x}", status=status, experiment="table9", model="tiny_gdn", task="minieval", method="s0", seed=seed,  # type: ignore[arg-type]
        alpha=0.3, error=None, config={"task": {"n_train": 8}, "seed": seed, "method": {"alpha": 0.3}}, config_hash="c",
        model_info={}, task_info={}, method_info={"label": "s0"},
        training=TrainingSummary(8, 64, 9, 3, [0.5, 0.25, 0.125], [1.0, 2.0, 3.0], 1.5, 0.3, "config") if ok
        else TrainingSummary(8, 64, 0, 0),
        baseline=evaluation("base", "0011"), tuned=evaluation("s0", "1011") if ok else None,
        controls={"random_state": evaluation("random", "0010")} if ok else {}, baseline_key="b", environment={},
        wall_s={"train": 2.5}, created="2030-01-01T00:00:00Z",
    )  # fmt: skip


@pytest.fixture
def config(tmp_path: Path, monkeypatch) -> WandbTracking:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    return WandbTracking(tags=["mine"], dir=str(tmp_path / "tracking"))


def runs(config: WandbTracking) -> list[Path]:
    return sorted((Path(config.dir) / "wandb").glob("offline-run-*"))


@pytest.mark.slow
def test_offline_runs_are_whole_and_wandb_sync_reads_them(config: WandbTracking, tmp_path: Path) -> None:
    track(config, [record(0), record(1, "no_solutions")])
    assert len(runs(config)) == 2
    with wandb_server() as received:
        env = {**os.environ, "WANDB_BASE_URL": received.url, "WANDB_API_KEY": "0" * 40, "WANDB_ENTITY": "me"}
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "sync", "--yes", str(runs(config)[0])],
            env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        begun = received.variables("UpsertBucket")[0]
        assert begun["displayName"] == "tiny_gdn/minieval/s0/seed0"
        assert begun["groupName"] == "table9"
        assert begun["tags"] == ["mine", "tiny_gdn", "minieval", "s0", "table9", "seed0"]
        assert json.loads(begun["config"])["task"]["value"] == {"n_train": 8}
        history = [json.loads(line) for line in received.files["wandb-history.jsonl"]]
        assert [(h["train/step"], h["train/loss"], h["train/grad_norm"]) for h in history if "train/loss" in h] == [
            (1, 0.5, 1.0), (2, 0.25, 2.0), (3, 0.125, 3.0)
        ]  # fmt: skip
        last = json.loads(received.files["wandb-summary.json"][-1])
        assert (last["baseline/accuracy"], last["tuned/accuracy"], last["delta_pp"]) == (0.5, 0.75, 25.0)
        (table,) = (json.loads(v) for k, v in received.uploads.items() if k.endswith("table.json"))
        assert table["data"] == problem_rows(record(0))
        assert received.exit_codes == [0], "the run was finished, and well"


@pytest.mark.slow
def test_the_same_records_are_tracked_once(config: WandbTracking) -> None:
    track(config, [record(0)])
    track(config, [record(0)])
    assert len(runs(config)) == 1
    track(config, [dataclasses.replace(record(0), alpha=0.4)])  # another result under the same key: the run is updated
    assert len(runs(config)) == 2
    assert all(f"{0:016x}-0" in p.name for p in runs(config))


@pytest.mark.slow
def test_no_network_is_one_line_and_leaves_the_records(config: WandbTracking, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    with pytest.raises(TrackingError) as error:
        track(config, [record(0)])
    assert "\n" not in str(error.value)
    assert "tracking.mode=offline" in str(error.value)
    assert not (Path(config.dir) / "tracked").exists()


def test_rows_say_what_changed() -> None:
    rows = problem_rows(record(0))
    assert [r[5] for r in rows] == ["solved", "", "", ""]
    assert rows[0] == ["p/0", False, "wrong", True, "pass", "solved", "base answer 0", "s0 answer 0"]
    assert problem_rows(record(1, "no_solutions"))[0] == ["p/0", False, "wrong", None, None, "", "base answer 0", None]


def test_the_summary_leaves_out_what_there_is_not() -> None:
    assert summary(record(0))["random_state/accuracy"] == 0.25
    assert "tuned/accuracy" not in summary(record(1, "no_solutions"))


def test_tags_are_the_configs_and_the_records(config: WandbTracking) -> None:
    assert tags(WandbTracking(tags=["s0", "x"]), record(2)) == ["s0", "x", "tiny_gdn", "minieval", "table9", "seed2"]


def test_online_needs_a_key(config: WandbTracking, tmp_path: Path, monkeypatch) -> None:
    assert mode(None) == "offline"
    assert mode("online") == "online"
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai login user password x\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert mode(None) == "online"
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert mode(None) == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert mode(None) == "offline"
