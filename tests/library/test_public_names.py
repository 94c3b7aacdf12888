"""`from s0 import ...` is all a program needs; the imports users have keep working."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import s0

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", s0.__all__)
def test_every_public_name_leads_somewhere(name: str) -> None:
    assert getattr(s0, name) is not None


def test_the_library_page_imports_from_s0_alone() -> None:
    text = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    deeper = re.findall(r"^\s*from (s0\.[\w.]+) import .*$", text, re.M)
    assert not deeper
    named = {n.strip() for line in re.findall(r"^\s*from s0 import (.*)$", text, re.M) for n in line.split(",")}
    assert named <= set(s0.__all__)


def test_old_imports_work() -> None:
    from s0 import InitialState, S0Config, S0Trainer, StateBank
    from s0.config import S0Config as ConfigThere
    from s0.state import InitialState as StateThere
    from s0_tuning import S0Config as TuningConfig
    from s0_tuning import S0Trainer as TuningTrainer

    assert ConfigThere is S0Config is TuningConfig
    assert StateThere is InitialState
    assert TuningTrainer is S0Trainer
    assert StateBank.__name__ == "StateBank"
