"""Fixtures of the sweep tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweeps import SWEEP, Undisturbed, check_sweep


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    trial = check_sweep.Trial(tmp_path_factory.mktemp("sweep") / "undisturbed", [*SWEEP, *check_sweep.LIMITS])
    return Undisturbed(trial, trial.finish())


@pytest.fixture
def trial(tmp_path: Path):
    return check_sweep.Trial(tmp_path / "trial", [*SWEEP, *check_sweep.LIMITS])
