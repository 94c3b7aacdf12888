"""Every preset and every option of every group composes, is checked, and dry-runs: nothing is loaded or downloaded."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest

from s0.cli.compose import CONFIGS, groups, make_plan, parse_args
from s0.config.registry import ANALYSES, load
from s0.sweep.plan import Plan
from s0.sweep.status import print_plan, print_status

GROUPS = groups(CONFIGS)
PRESETS = GROUPS["experiment"]
OPTIONS = [
    f"{group}={option}"
    for group, options in GROUPS.items()
    if group[:5] not in ("hydra", "exper")
    for option in options
]


def plan(*argv: str) -> Plan:
    return make_plan(parse_args(list(argv)))


def test_there_are_presets() -> None:
    assert len(PRESETS) >= 10


@pytest.mark.parametrize("scale", ["paper", "tiny"])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_composes_and_dry_runs(name: str, scale: str, tmp_path: Path, capsys) -> None:
    cells = plan(f"experiment={name}", f"scale={scale}", f"records={tmp_path}").cells
    assert cells
    for cell in cells:
        assert cell.config.experiment == name
        if scale == "tiny":
            assert cell.config.model.path.startswith("embedded:")
    print_plan(cells)
    out = capsys.readouterr().out
    n = sum(len(c.config.seed) for c in cells)
    assert f"{len(cells)} cell(s), {n} record(s): 0 exist, {n} to run" in out


@pytest.mark.parametrize("name", PRESETS)
def test_the_first_lines_of_a_preset_hold_the_command_that_runs_it(name: str) -> None:
    head = (CONFIGS / "experiment" / f"{name}.yaml").read_text().splitlines()[:3]
    assert any(f"python run.py experiment={name}" in line for line in head)


@pytest.mark.parametrize("override", OPTIONS)
def test_every_option_of_every_group_composes(override: str, tmp_path: Path) -> None:
    (cell,) = plan(override, f"records={tmp_path}").cells
    assert cell.command == f"python run.py {override} records={tmp_path}"


@pytest.mark.parametrize("scale", ["paper", "tiny"])
def test_a_failed_cell_of_a_preset_can_be_run_alone(scale: str) -> None:
    """The command that a failure shows composes exactly the cell that failed."""
    cell = plan("experiment=table1_main", f"scale={scale}").cells[-1]
    (alone,) = plan(*shlex.split(cell.command)[2:]).cells
    assert alone.config == cell.config
    (seed,) = plan(*shlex.split(cell.rerun([5]))[2:]).cells
    assert seed.config == dataclasses.replace(cell.config, seed=[5])


def test_the_command_line_wins_over_the_preset_and_its_cells() -> None:
    cells = plan("experiment=table1_main", "seed=3", "task.n_eval=5").cells
    assert {tuple(c.config.seed) for c in cells} == {(3,)}
    assert {c.config.task.n_eval for c in cells} == {5}


def test_a_sweep_is_the_product_of_its_choices_and_globs() -> None:
    cells = plan("-m", "model=glob(qwen35_*)", "task=humaneval,gsm8k", "seed=0..9").cells
    assert len(cells) == 4 * 2
    assert all(c.config.seed == list(range(10)) for c in cells)
    assert len({c.label() for c in cells}) == 8


def test_a_sweep_that_names_one_cell_twice_runs_it_once() -> None:
    assert len(plan("-m", "model=qwen35_2b,qwen35_4b", "scale=tiny").cells) == 1


def test_labels_say_what_differs() -> None:
    cells = plan("-m", "method.alpha=0.1,0.2", "task.n_train=9").cells
    assert [c.label() for c in cells] == [f"tiny_gdn / minieval / s0 method.alpha={a}" for a in (0.1, 0.2)]


def test_status_of_a_preset_lists_what_is_missing(tmp_path: Path, capsys) -> None:
    cells = plan("experiment=table1_main", "seed=0..2", f"records={tmp_path}").cells
    assert print_status(cells) == 1
    assert capsys.readouterr().out.count("missing 0..2") == len(cells)


def test_analyses_are_the_ones_that_exist() -> None:
    for entry in ANALYSES.values():
        assert callable(load(entry.target))
