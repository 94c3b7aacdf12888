"""hydra.run.dir and hydra.sweep.dir are honoured; a search by Optuna values trials by validation alone."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from s0.cli import main
from s0.cli.compose import make_plan, parse_args
from s0.cli.tune import check_objective, objective
from s0.errors import ConfigError, NoTrainingSolutions
from s0.storage.records import Record, find_records, read_record
from s0.sweep.plan import Plan

RECORDS = Path(__file__).parents[2] / "experiments" / "records" / "table1_main"


def plan(*argv: str) -> Plan:
    return make_plan(parse_args(list(argv)))


def test_hydra_run_dir_is_where_records_and_summary_go(tmp_path: Path) -> None:
    (cell,) = plan("debug=limits", f"hydra.run.dir={tmp_path / 'mine'}").cells
    assert cell.config.records == str(tmp_path / "mine" / "records")
    assert cell.config.out == str(tmp_path / "mine" / "summary")
    assert "records=" in cell.command
    (given,) = plan("records=elsewhere", f"hydra.run.dir={tmp_path}").cells
    assert given.config.records == "elsewhere"
    assert given.config.out == str(tmp_path / "summary")
    (dated,) = plan("hydra.run.dir='runs/${now:%Y}'").cells
    assert dated.config.records.startswith("runs/2")


def test_hydra_sweep_dir_is_where_a_sweep_goes_and_launchers_hear_of_it(tmp_path: Path) -> None:
    made = plan("-m", "method.alpha=0.1,0.2", f"hydra.sweep.dir={tmp_path}")
    assert [c.config.records for c in made.cells] == [str(tmp_path / "records")] * 2
    assert f"records={tmp_path / 'records'}" in made.argv
    parse_args(made.argv)


def test_chdir_false_is_fine() -> None:
    assert plan("hydra.job.chdir=false").cells


def test_the_objective_is_the_validation_score_never_the_held_out_one() -> None:
    records = [r for r in map(read_record, find_records([RECORDS])) if r.training.alpha_scores]
    assert records
    expected = sum(max(r.training.alpha_scores.values()) for r in records) / len(records)
    assert objective(records) == expected
    swapped = [_without_held_out(r) for r in records]
    assert objective(swapped) == expected


def _without_held_out(record: Record) -> Record:
    import dataclasses

    return dataclasses.replace(record, tuned=None, baseline=None, controls={})


def test_without_a_validation_score_there_is_no_objective() -> None:
    records = [r for r in map(read_record, find_records([RECORDS])) if not r.training.alpha_scores]
    assert records
    with pytest.raises(NoTrainingSolutions):
        objective(records)


@pytest.mark.parametrize("argv", [["method=lora"], ["method.alpha=0.3"], ["method=none"]])
def test_a_cell_without_validation_is_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"add method\.alpha=auto"):
        check_objective(plan(*argv).cells[0].config)


has_optuna = importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(
    "hydra_plugins.hydra_optuna_sweeper"
)


@pytest.mark.skipif(bool(has_optuna), reason="the plugin is installed")
def test_without_the_plugin_the_way_out_is_named(capsys) -> None:
    assert main(["-m", "hydra/sweeper=optuna", "method.lr=interval(1e-4,1e-2)"]) == 2
    assert "pip install 'hydra-optuna-sweeper>=1.3,<1.4'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(
    not has_optuna, reason="hydra-optuna-sweeper is not installed (pip install 'hydra-optuna-sweeper>=1.3,<1.4')"
)
def test_optuna_searches_and_says_which_trial_was_best(tmp_path: Path, capsys) -> None:
    small = [
        "task.n_train=4",
        "task.n_eval=2",
        "task.samples_per_problem=4",
        "method.n_steps=2",
        "engine.threads=1",
        "seed=0",
    ]
    places = [f"{k}={tmp_path / k}" for k in ("store", "records", "out")]
    search = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", f"hydra.sweep.dir={tmp_path / 'hydra'}"]
    assert main([*search, "debug=limits", *small, *places, "method.lr=interval(1e-4,1e-2)"]) == 0
    assert "best of 2 trials by cross-validation" in capsys.readouterr().out
    lrs = {json.loads(p.read_text())["config"]["method"]["lr"] for p in find_records([tmp_path / "records"])}
    assert len(lrs) == 2
