"""The console command: subcommands, help that fits a terminal and loads nothing, versions, and one line for what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from s0 import __version__
from s0.cli.compose import make_plan, parse_args
from s0.cli.dispatch import ABSENT, COMMANDS
from s0.runtime.extras import EXTRAS, install_line

ROOT = Path(__file__).parents[2]

ASK = """
import json, sys, contextlib, io
from s0.cli import command, main
from s0.errors import ConfigError
found = {}
for argv in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command(argv)
        except SystemExit as stop:
            code = stop.code or 0
    heavy = [m for m in ("torch", "transformers", "scipy", "matplotlib", "datasets") if m in sys.modules]
    found[" ".join(argv)] = {"code": code, "out": out.getvalue(), "err": err.getvalue(), "heavy": heavy}
print(json.dumps(found))
"""
HELP = [[], ["--help"], *([name, "--help"] for name in COMMANDS if name not in ABSENT)]
OTHER = [["--version"], ["rnu"], ["serve"], ["report", "--ouput", "x"], ["report"], ["run", "alpha=1"]]


@pytest.fixture(scope="module")
def answers() -> dict[str, dict]:
    done = subprocess.run(
        [sys.executable, "-c", ASK], input=json.dumps([*HELP, *OTHER]), capture_output=True, text=True, check=True,
        env={**os.environ, "COLUMNS": "80", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.parametrize("argv", HELP, ids=lambda a: " ".join(a) or "nothing")
def test_help_fits_80_columns_and_loads_no_library(answers: dict, argv: list[str]) -> None:
    said = answers[" ".join(argv)]
    assert said["code"] == (0 if argv else 2)
    assert said["err"] == ""
    assert "s0" in said["out"]
    assert not [line for line in said["out"].splitlines() if len(line) > 80]
    assert said["heavy"] == []


def test_help_names_every_subcommand(answers: dict) -> None:
    assert all(f"\n  {name} " in answers["--help"]["out"] for name in COMMANDS)


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ("rnu", 2, ["rnu", "did you mean run?"]),
        ("report --ouput x", 2, ["--ouput", "did you mean --out?"]),
        ("report", 2, ["records"]),
        ("run alpha=1", 2, ["method.alpha=VALUE"]),
    ],
)
def test_a_typo_is_one_line(answers: dict, argv: str, code: int, words: list[str]) -> None:
    said = answers[argv]
    assert (said["code"], said["out"]) == (code, "")
    assert said["err"].startswith("error: ")
    assert said["err"].count("\n") == 1
    assert all(w in said["err"] for w in words)


def test_what_is_not_built_says_so(answers: dict) -> None:
    for name in ABSENT:
        assert answers[name]["code"] == 1
        assert "not built yet" in answers[name]["err"]
        assert answers[name]["err"].count("\n") == 1


def test_version_is_ours_not_hydras() -> None:
    for face in (["run.py"], ["-m", "s0"], ["-m", "s0.cli"]):
        done = subprocess.run(
            [sys.executable, *face, "--version"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith(f"s0 {__version__} ")
        assert done.stderr == ""


def test_rerun_commands_are_in_the_users_own_words(tmp_path: Path) -> None:
    cells = make_plan(parse_args(["experiment=table1_main", f"records={tmp_path}"]), program="s0 run").cells
    assert all(c.command.startswith("s0 run ") for c in cells)
    assert cells[0].rerun([4]).startswith("s0 run ")


def test_extras_are_those_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {k: tuple(v) for k, v in project["optional-dependencies"].items() if k != "dev"}
    assert declared == EXTRAS
    assert project["name"] not in ("s0", "s0-tuning")
    assert install_line("wandb") == "pip install 'wandb>=0.19'"


@pytest.mark.parametrize("face", [["run.py"], ["-m", "s0", "run"], ["-m", "s0", "report", "x"]])
def test_no_venv_is_one_line(face: list[str]) -> None:
    """An interpreter without the dependencies: -S leaves site-packages out."""
    bare = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-S", *face], cwd=ROOT, capture_output=True, text=True, check=False, env=bare
    )
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr


def test_help_of_update_readme_changes_nothing() -> None:
    before = (ROOT / "README.md").read_bytes()
    done = subprocess.run(
        [sys.executable, "scripts/update_readme.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "usage" in done.stdout
    assert (ROOT / "README.md").read_bytes() == before
