"""Values the schema lets through: another checkpoint under an embedded preset, and numbers no run can mean."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from s0.cli.compose import make_plan, parse_args
from s0.errors import ConfigError
from s0.paths import EMBEDDED_MODELS as FOLDER
from s0.sweep.plan import Planned
from s0.tiny.standins import EMBEDDED


def cell(*argv: str) -> Planned:
    (only,) = make_plan(parse_args(list(argv))).cells
    return only


def test_the_embedded_presets_are_those_shipped() -> None:
    assert {p.parent.name for p in FOLDER.glob("*/config.json")} == EMBEDDED


def test_a_local_checkpoint_has_its_own_name_and_the_published_hyper_parameters(tmp_path: Path) -> None:
    folder = tmp_path / "my-checkpoint"
    shutil.copytree(FOLDER / "tiny_gdn", folder)
    planned = cell(f"model.path={folder}", "task=humaneval")
    assert planned.label().startswith("my-checkpoint / humaneval")
    assert planned.config.model.hyperparameters == {}
    assert planned.config.method.alpha is None  # the architecture's
    kept = cell(f"model.path={folder}", "model=qwen35_4b", "task=humaneval").config.model
    assert kept.name == "qwen35_4b"
    assert cell(f"model.path={folder}", "model.name=mine").config.model.name == "mine"


def test_the_embedded_model_keeps_its_hyper_parameters() -> None:
    planned = cell("model=tiny_gdn")
    assert (planned.config.model.name, planned.config.method.alpha) == ("tiny_gdn", "auto")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("method.alpha=inf", "method.alpha=inf"),
        ("method.alpha=nan", "method.alpha=nan"),
        ("engine.memory_gb=-1", "engine.memory_gb=-1"),
        ("engine.memory_gb=0", "engine.memory_gb=0"),
        ("tracking.name=tensorboard", "choices: none, wandb"),
    ],
)
def test_a_value_no_run_can_mean_is_refused(argv: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        cell(argv)
    assert words in str(refused.value)
