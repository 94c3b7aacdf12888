"""Settings are typed to the end: a checker finds a misspelt one, and one place says what each may be."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from s0.config import schema
from s0.config.registry import KINDS, PLAIN_GROUPS, SECTIONS, find, make
from s0.config.resolve import from_json, resolve, to_json
from s0.errors import ConfigError
from s0.settings import check, describe

ROOT = Path(__file__).parents[2]

MISSPELT = """
from s0.config.schema import Config, S0Method

def steps(config: Config, method: S0Method) -> int:
    return config.task.{task} + method.{method}
"""


def classes() -> list[type]:
    registered = [e.config for registry, _ in KINDS.values() for e in registry.values() if e.config is not None]
    return list(dict.fromkeys([*PLAIN_GROUPS.values(), *SECTIONS.values(), *registered]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "method", "complaint"),
    [
        ("max_new_tokens", "n_steps", ""),
        ("max_new_token", "n_steps", '"TaskConfig" has no attribute "max_new_token"'),
        ("max_new_tokens", "nsteps", '"S0Method" has no attribute "nsteps"'),
    ],
)
def test_the_type_checker_finds_a_misspelt_setting(tmp_path: Path, task: str, method: str, complaint: str) -> None:
    file = tmp_path / "snippet.py"
    file.write_text(MISSPELT.format(task=task, method=method))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--follow-imports=silent", str(file)],
        cwd=ROOT, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "MYPYPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode == 0) == (not complaint), done.stdout + done.stderr
    assert complaint in done.stdout


@pytest.mark.parametrize("cls", classes(), ids=lambda c: c.__name__)
def test_every_setting_has_help_and_a_default_that_passes(cls: type) -> None:
    for setting in describe(cls):
        assert setting.help, f"{cls.__name__}.{setting.name} says nothing"
        assert "\n" not in setting.help
    check(cls(**({"name": "x"} if "name" in cls.__dataclass_fields__ else {})))


def test_a_resolved_config_cannot_be_changed() -> None:
    config = schema.Config(method=schema.S0Method())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.task.n_train = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.method.name = "lora"


def plain(**method: object) -> dict:
    return {
        "model": {"path": "embedded:tiny_gdn", "name": "tiny_gdn", "hyperparameters": {"s0": {"lr": 2e-3}}},
        "task": {"name": "minieval"}, "method": {"name": "s0", **method}, "engine": {"name": "hf"},
        "tracking": {"name": "none"}, "seed": 0,
    }  # fmt: skip


def test_null_means_documented_then_published() -> None:
    method = resolve(plain(n_steps=3, lr=None)).method
    assert isinstance(method, schema.S0Method)
    assert (method.n_steps, method.lr, method.l2_lambda) == (3, 2e-3, 5e-4)


def test_plain_form_and_back() -> None:
    config = resolve(plain())
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_steps": 0}, "method.n_steps=0: must be an integer, between 1 and 1e+06"),
        ({"n_steps": True}, "method.n_steps=True: must be an integer"),
        ({"n_steps": 2.5}, "method.n_steps=2.5: must be an integer"),
        ({"lr": float("nan")}, "method.lr=nan: must be a number"),
        ({"alpha_placement": "insid"}, "did you mean inside"),
        ({"layers": [0, 0]}, "a layer occurs twice"),
        ({"alpha": "automatic"}, "must be a number or auto, or null"),
        ({"alhpa": 1}, "did you mean alpha"),
    ],
)
def test_a_bad_value_is_one_line(values: dict, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve(plain(**values))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


# -- classes of one's own -------------------------------------------------------------------------------------------


@dataclasses.dataclass
class OwnMethod(schema.TrainedMethod):
    strength: float = 2.0


class Own:
    config_class = OwnMethod

    def __init__(self, settings: OwnMethod):
        self.settings = settings


def test_a_class_of_ones_own_is_named_in_the_config() -> None:
    target = f"{__name__}:Own"
    config = resolve(plain(name=target, strength=3.0))
    assert isinstance(config.method, OwnMethod)
    assert (config.method.strength, config.method.n_steps) == (3.0, 20)
    assert make("method", config.method).settings is config.method


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no.such.module:Thing", "cannot be imported"),
        ("s0.stats:nothing", "cannot be imported"),
        ("lorra", "did you mean"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        find("method", name)


class Wrong:
    config_class = schema.TaskConfig


def test_a_class_with_settings_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="config_class must be a dataclass derived from"):
        find("method", f"{__name__}:Wrong")
