"""How cells are handed out: devices per worker, attempts, outcomes shared through a folder, two passes over claims."""

from __future__ import annotations

from pathlib import Path

import pytest

from s0.cli.compose import make_plan, parse_args
from s0.errors import ConfigError
from s0.storage.store import Store
from s0.sweep.failures import Failure, failed_path
from s0.sweep.ledger import CellOutcome, Sweep, claim_name, claimed
from s0.sweep.plan import Planned
from s0.sweep.work import work
from s0.sweep.workers import devices, environments


@pytest.fixture
def cells(tmp_path: Path) -> list[Planned]:
    places = [f"records={tmp_path / 'records'}", f"store={tmp_path / 'store'}"]
    return make_plan(parse_args(["-m", "method.alpha=0.1,0.2", "seed=0..3", *places])).cells


@pytest.mark.parametrize(
    ("n", "available", "per_worker", "expected"),
    [
        (2, ["0", "1"], 1, ["0", "1"]),
        (4, ["0", "1"], 1, ["0", "1", "0", "1"]),
        (2, ["4", "5", "6", "7"], 2, ["4,5", "6,7"]),
        (2, ["GPU-a", "GPU-b"], 1, ["GPU-a", "GPU-b"]),
        (1, ["0", "1", "2"], 3, ["0,1,2"]),
    ],
)
def test_every_worker_sees_devices_of_its_own(
    n: int, available: list[str], per_worker: int, expected: list[str]
) -> None:
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments(n, available, per_worker)] == expected


def test_without_gpus_threads_are_divided() -> None:
    import os

    made = environments(2, [])
    assert all("CUDA_VISIBLE_DEVICES" not in e for e in made)
    assert {e["S0_THREADS"] for e in made} == {str(max(1, len(os.sched_getaffinity(0)) // 2))}


def test_more_gpus_per_worker_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match="2 device"):
        environments(1, ["0", "1"], 3)


@pytest.mark.parametrize(("value", "expected"), [("0,2", ["0", "2"]), ("", []), ("-1", []), (" 3 , 1 ", ["3", "1"])])
def test_visible_devices_come_from_the_environment(value: str, expected: list[str], monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert devices() == expected


def test_outcomes_travel_through_the_folder(cells: list[Planned], tmp_path: Path) -> None:
    sweep = Sweep.create(tmp_path / "sweep", cells)
    other = Sweep(tmp_path / "sweep")
    assert other.plan() == cells
    assert other.get(0) is None
    outcome = CellOutcome(["a.json"], [Failure("m / t / s0", [3], "why", 1, "python run.py")])
    sweep.put(0, outcome)
    assert other.get(0) == outcome
    assert other.get(1) is None
    sweep.remove()
    assert not (tmp_path / "sweep").exists()


def test_a_cell_that_takes_processes_down_is_not_tried_for_ever(cells: list[Planned], tmp_path: Path) -> None:
    sweep = Sweep.create(tmp_path / "sweep", cells)
    for _ in range(3):
        sweep.attempt(0)
    work(cells, sweep, only=[0], max_attempts=3)
    outcome = sweep.get(0)
    assert outcome is not None
    assert "3 processes died while running it" in outcome.failures[0].message
    assert outcome.failures[0].seeds == [0, 1, 2, 3]


def test_finished_cells_are_not_touched(cells: list[Planned], tmp_path: Path) -> None:
    sweep = Sweep.create(tmp_path / "sweep", cells)
    for n in range(len(cells)):
        sweep.put(n, CellOutcome(["done.json"]))
    work(cells, sweep)
    assert not (tmp_path / "store").exists()


def test_a_whole_cell_is_claimed_or_none_of_it(cells: list[Planned]) -> None:
    config = cells[0].config
    with claimed(config, [0, 1, 2, 3], wait=False) as mine:
        assert mine == [0, 1, 2, 3]
        with claimed(config, [0, 1, 2, 3], wait=False) as other:
            assert other == []
        with claimed(cells[1].config, [0], wait=False) as neighbour:
            assert neighbour == [0]


def test_seeds_that_another_command_works_on_are_left_to_it(cells: list[Planned]) -> None:
    config = cells[0].config
    with Store(config.store).claim(claim_name(config, 2)), claimed(config, [3, 2, 1, 0], wait=False) as mine:
        assert mine == [3, 1, 0], "in the order asked for"


def test_a_failed_record_has_one_name_per_config_and_seed(cells: list[Planned]) -> None:
    paths = {failed_path(c.config, s) for c in cells for s in range(4)}
    assert len(paths) == 8
    assert all("__failed-" in p.name for p in paths)
