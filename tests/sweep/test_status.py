"""Dry run and status on real records: what is reused, what is running, what failed, what it will cost."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from s0.cli.compose import make_plan, parse_args
from s0.config.resolve import to_json
from s0.config.seeds import ranges
from s0.data import Outcome, Verdict
from s0.storage import keys
from s0.storage.records import Evaluation, Record, TrainingSummary, write_record
from s0.storage.store import Store
from s0.sweep.failures import failed_path, write_failed
from s0.sweep.ledger import claim_name
from s0.sweep.plan import Planned
from s0.sweep.status import Index, duration, print_plan, print_status

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cells(tmp_path: Path) -> list[Planned]:
    places = [f"records={tmp_path / 'records'}", f"store={tmp_path / 'store'}"]
    return make_plan(parse_args(["-m", "method.alpha=0.1,0.2", "seed=0..4", *places])).cells


OUTCOMES = Evaluation("x", "greedy", [Outcome("P/0", "y", Verdict("pass"), 1, 1)])


def finished(cell: Planned, seed: int, seconds: float = 10.0) -> Record:
    c = cell.config
    return Record(
        key=f"k{seed}{keys.config(c)[:8]}", status="ok", experiment="", model=c.model.name, task=c.task.name,
        method=c.method.name, seed=seed, alpha=c.method.alpha, error=None, config={**to_json(c), "seed": seed},
        config_hash=keys.config(c), model_info={}, task_info={}, method_info={}, training=TrainingSummary(alpha=c.method.alpha),
        baseline=OUTCOMES, tuned=OUTCOMES, controls={}, baseline_key="", environment={},
        wall_s={"sample": seconds, "train": 2.0, "grade": 99.0},
        created="2030-01-01T00:00:00Z",
    )  # fmt: skip


def test_an_empty_store_has_everything_to_run_at_unknown_cost(cells: list[Planned], capsys) -> None:
    print_plan(cells)
    out = capsys.readouterr().out
    assert out.count("to run: seed 0..4, estimated unknown (no comparable record yet)") == 2
    assert "2 cell(s), 10 record(s): 0 exist, 10 to run" in out


def test_records_are_reused_and_tell_what_the_rest_will_cost(cells: list[Planned], capsys) -> None:
    folder = Path(cells[0].config.records)
    for seed in (0, 1):  # computed together: 12 s for both, grading went on meanwhile
        write_record(folder, finished(cells[0], seed))
    print_plan(cells)
    out = capsys.readouterr().out
    assert "alpha=0.1: 2 record(s) reused; to run: seed 2..4, estimated 18 s" in out
    assert "alpha=0.2: to run: seed 0..4, estimated 30 s" in out
    assert "10 record(s): 2 exist, 8 to run; estimated 48 s" in out


def test_a_record_of_another_config_is_not_reused(cells: list[Planned]) -> None:
    other = finished(cells[0], 0)
    write_record(Path(cells[0].config.records), dataclasses.replace(other, config_hash="0" * 16))
    assert Index([Path(cells[0].config.records)]).state(cells[0].config).done == []


def test_status_tells_done_running_failed_and_missing(cells: list[Planned], capsys) -> None:
    folder, config = Path(cells[0].config.records), cells[0].config
    write_record(folder, finished(cells[0], 0))
    write_failed(cells[0], 3, "the sky fell")
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
         f"from s0.storage.store import Store\nwith Store({config.store!r}).claim({claim_name(config, 1)!r}):\n"
         "    print('held', flush=True); time.sleep(600)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert print_status(cells) == 1
        out = capsys.readouterr().out
        assert f"alpha=0.1: done 0; running 1 (process {holder.pid} on" in out
        assert "failed 3; missing 2,4" in out
        assert "failed 3: the sky fell; rerun: python run.py method.alpha=0.1" in out
        assert "2 cell(s): 1 done, 1 running, 1 failed, 7 missing" in out
    finally:
        holder.kill()
        holder.wait()
    assert Store(config.store).holder_of(claim_name(config, 1)) is None, "a dead process holds nothing"


def test_status_is_0_when_all_is_done(cells: list[Planned], capsys) -> None:
    for cell in cells:
        for seed in cell.config.seed:
            write_record(Path(cell.config.records), finished(cell, seed))
    assert print_status(cells) == 0
    assert "10 done, 0 running, 0 failed, 0 missing" in capsys.readouterr().out


def test_a_success_is_not_hidden_by_an_older_failure(cells: list[Planned]) -> None:
    write_failed(cells[0], 0, "earlier")
    assert failed_path(cells[0].config, 0).exists()
    write_record(Path(cells[0].config.records), finished(cells[0], 0))
    state = Index([Path(cells[0].config.records)]).state(cells[0].config)
    assert state.done == [0]
    assert state.failed == {}


def test_a_torn_or_old_record_is_named_and_counts_as_missing(cells: list[Planned], capsys) -> None:
    folder = Path(cells[0].config.records)
    path = write_record(folder, finished(cells[0], 0))
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "schema_version": 0}))
    (folder / "tiny_gdn__minieval__s0__seed1__torn.json").write_text('{"key": "to')
    assert print_status(cells) == 1
    both = capsys.readouterr()
    assert both.err.count("warning: ") == 2
    assert "schema_version=0" in both.err
    assert "10 missing" in both.out


@pytest.mark.parametrize(
    ("seeds", "text"),
    [([], ""), ([3], "3"), ([0, 1], "0,1"), ([2, 0, 1], "0..2"), ([0, 1, 2, 5, 7, 8, 9], "0..2,5,7..9")],
)
def test_ranges(seeds: list[int], text: str) -> None:
    assert ranges(seeds) == text


def test_durations() -> None:
    assert [duration(s) for s in (5, 600, 7200)] == ["5 s", "10 min", "2.0 h"]


@pytest.mark.slow
def test_the_status_command_takes_the_same_arguments(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/status.py", "-m", "method.alpha=0.1,0.2", "seed=0", f"records={tmp_path}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "2 cell(s): 0 done, 0 running, 0 failed, 2 missing" in done.stdout
    typo = subprocess.run(
        [sys.executable, "scripts/status.py", "modle=x"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (typo.returncode, typo.stderr.count("\n")) == (2, 1)
