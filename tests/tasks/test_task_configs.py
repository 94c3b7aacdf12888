"""The shipped task configs: known keys, a command that runs them, the published values."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from s0.config.registry import TASKS
from s0.tasks import make_task

FOLDER = Path(__file__).parents[2] / "configs" / "task"
FILES = sorted(FOLDER.glob("*.yaml"))

# Published protocol: samples per training problem, tokens per answer.
PUBLISHED = {"humaneval": (16, 512), "math500": (4, 1024), "gsm8k": (4, 512), "spider": (4, 512)}


def test_every_task_has_a_config():
    assert {f.stem for f in FILES} == set(TASKS)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_config_is_valid(file):
    text = file.read_text(encoding="utf-8")
    assert text.startswith(f"# python run.py task={file.stem}")
    config = yaml.safe_load(text)
    assert config.pop("defaults") == [f"base_{file.stem}", "_self_"]
    assert config["name"] == file.stem
    make_task(config["name"], config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_protocol(name):
    config = TASKS[name].config(name=name)
    assert (config.samples_per_problem, config.max_new_tokens) == PUBLISHED[name]
    assert (config.temperature, config.top_p) == (0.7, 0.95)
    assert config.n_train is None  # the task's own split is the published one
    assert config.match == "official"
    stated = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert set(stated) <= {"defaults", "name", "hub_id", "hub_revision"}


@pytest.mark.parametrize("name", ["math500", "gsm8k"])
def test_hub_revisions_are_pinned(name):
    config = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert len(config["hub_revision"]) == 40
