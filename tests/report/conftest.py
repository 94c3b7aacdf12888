"""The paper built once from no records and once from made-up ones, for all tests that read it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from synthetic_paper import write_all

from s0.report.paper.build import PaperPaths, build

ROOT = Path(__file__).parents[2]


def _built(root: Path) -> PaperPaths:
    layout = PaperPaths.of(ROOT, root / "paper", root / "records")
    build(layout, say=lambda line: None)
    shutil.copy(ROOT / "paper" / "s0_tuning.tex", layout.paper)
    return layout


@pytest.fixture(scope="session")
def empty(tmp_path_factory) -> PaperPaths:
    return _built(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="session")
def full(tmp_path_factory) -> PaperPaths:
    root = tmp_path_factory.mktemp("full")
    write_all(root / "records", seeds=3)
    return _built(root)
