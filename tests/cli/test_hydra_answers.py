"""What Hydra answers through run.py: the resolved config, help, completion; and the debug group on real runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from s0.cli.compose import make_plan, parse_args

ROOT = Path(__file__).parents[2]


def run(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(
        [sys.executable, "run.py", *argv], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_cfg_job_resolve_is_clean() -> None:
    done = run("--cfg", "job", "--resolve", "method.alpha=0.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "${" not in done.stdout
    assert "???" not in done.stdout
    shown = yaml.safe_load(done.stdout)
    assert shown["method"]["alpha"] == 0.5
    assert "hydra" not in shown


def test_help_lists_groups_and_options() -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("debug: default, limits, overfit, profile", "tiny_mamba2", "experiment: ", "$"):
        assert words in done.stdout or words == "$"
    assert "$" not in done.stdout.replace("${", ""), "every placeholder of the template is filled in"


def test_shell_completion_knows_groups_options_and_keys() -> None:
    install = run("-sc", "install=bash")
    assert (install.returncode, install.stderr) == (0, "")
    assert "complete" in install.stdout

    def complete(line: str) -> list[str]:
        return run("-sc", "query=bash", COMP_LINE=line).stdout.split()

    assert "model=tiny_gdn" in complete("python run.py model=tiny")
    assert "experiment=table1_main" in complete("python run.py experiment=table")
    assert "method.alpha=" in complete("python run.py method.al")


@pytest.mark.parametrize("name", ["default", "limits", "overfit", "profile"])
def test_debug_presets_are_small_and_keep_their_outputs_apart(name: str) -> None:
    (cell,) = make_plan(parse_args([f"debug={name}"])).cells
    config = cell.config
    assert config.task.n_train == 8
    assert config.task.n_eval == 6
    assert (config.debug.profile, config.debug.overfit) == (name == "profile", name == "overfit")
    for place in ("store", "records", "out"):
        assert getattr(config, place).startswith("outputs/debug/")


@pytest.mark.slow
def test_overfit_fits_one_batch_and_profile_writes_where_the_time_goes(tmp_path: Path) -> None:
    places = [f"store={tmp_path / 'store'}", f"records={tmp_path / 'records'}", f"out={tmp_path / 'out'}"]
    fitted = run("debug=overfit", "method.n_steps=30", "engine.threads=1", *places)
    assert fitted.returncode == 0, fitted.stderr
    assert "overfit: seed 0, loss " in fitted.stdout
    done = run("debug=overfit", "debug.profile=true", "method.lr=0", "method.n_steps=3", "engine.threads=1", *places)
    assert done.returncode == 4, "a loss that does not fall is a failure"
    assert "not below 0.5 of the first; raise method.lr" in done.stderr
    assert "cumulative" in (tmp_path / "out" / "profile.txt").read_text()
    assert "aten::" in (tmp_path / "out" / "profile_ops.txt").read_text()
    assert (tmp_path / "out" / "profile.prof").stat().st_size > 1000
