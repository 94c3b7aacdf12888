"""Every model and method preset composes, and holds exactly the published numbers."""

from __future__ import annotations

import csv
import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from s0.config.registry import METHODS, register
from s0.config.resolve import resolve, resolve_method
from s0.state.families import ATTENTION_TARGETS, FAMILIES
from s0.state.recurrences import DEFAULT_ALPHA

ROOT = Path(__file__).parents[2]
PUBLISHED = list(csv.DictReader((ROOT / "experiments/published/hyperparameters.csv").open()))
MODELS = sorted(p.stem for p in (ROOT / "configs/model").glob("*.yaml"))
METHOD_NAMES = sorted(p.stem for p in (ROOT / "configs/method").glob("*.yaml"))
#: preset that stands for each entry of the table's model column
STANDS_FOR = {"all": "qwen35_4b", "GatedDeltaNet": "qwen35_4b", "Mamba-2": "falcon_h1_7b", "Transformer": "qwen25_3b"}
FAMILY = {"GatedDeltaNet": FAMILIES["Qwen3_5GatedDeltaNet"], "Mamba-2": FAMILIES["FalconH1Mixer"]}
CHECKPOINTS = {
    "qwen35_08b": "Qwen/Qwen3.5-0.8B",
    "qwen35_2b": "Qwen/Qwen3.5-2B",
    "qwen35_4b": "Qwen/Qwen3.5-4B",
    "qwen35_9b": "Qwen/Qwen3.5-9B",
    "falcon_h1_7b": "tiiuae/Falcon-H1-7B-Instruct",
    "qwen25_3b": "Qwen/Qwen2.5-3B-Instruct",
    "tiny_gdn": "embedded:tiny_gdn",
    "tiny_mamba2": "embedded:tiny_mamba2",
    "tiny_transformer": "embedded:tiny_transformer",
}


@functools.cache
def composed(model: str, method: str) -> dict[str, Any]:
    register()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose(overrides=[f"+model={model}", f"+method={method}"])
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    plain["method"] = dataclasses.asdict(
        resolve_method(plain["method"], plain["model"]["hyperparameters"])  # type: ignore[arg-type]
    )
    return plain  # type: ignore[return-value]


def _is(value: Any, published: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value) == published
    return float(value) == float(published)


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda r: f"{r['model']}-{r['method']}-{r['field']}")
def test_presets_hold_the_published_value(row: dict[str, str]) -> None:
    preset = STANDS_FOR.get(row["model"], row["model"])
    settings, field, want = composed(preset, row["method"])["method"], row["field"], row["value"]
    if field == "alpha":
        default = FAMILY[row["model"]].default_alpha
        assert float(want) == default == DEFAULT_ALPHA[FAMILY[row["model"]].architecture]
        assert settings["alpha"] in (None, default)
    elif field == "lora_alpha":
        assert want == "2r"
        assert settings["lora_alpha"] is None  # twice the rank, whatever the rank is: tests/methods/test_lora.py
    elif field == "targets":
        assert settings["targets"] is None
        assert list(FAMILY[row["model"]].lora_targets) == want.split()
    else:
        assert _is(settings[field], want)
    assert row["source"]


def test_a_transformer_is_adapted_where_qwen_is() -> None:
    assert FAMILY["GatedDeltaNet"].lora_targets == ATTENTION_TARGETS


def test_every_checkpoint_has_its_preset() -> None:
    assert {m: composed(m, "none")["model"]["path"] for m in MODELS} == CHECKPOINTS
    assert all(composed(m, "none")["model"]["name"] == m for m in MODELS)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_method_presets_state_no_value_again(method: str) -> None:
    """Defaults stand beside the fields (s0.config.schema); a preset that repeats one would drift from it."""
    assert set(METHOD_NAMES) == set(METHODS)
    text = (ROOT / f"configs/method/{method}.yaml").read_text()
    assert yaml.safe_load(text) == {"defaults": [f"base_{method}", "_self_"], "name": method}


@pytest.mark.parametrize("group", ["model", "method"])
def test_presets_open_with_the_command_that_runs_them(group: str) -> None:
    for path in (ROOT / "configs" / group).glob("*.yaml"):
        first = path.read_text().splitlines()[0]
        assert first.startswith("# python run.py"), path.name
        assert f"{group}={path.stem}" in first, path.name


@pytest.mark.parametrize(
    ("model", "method"), [(m, "s0") for m in MODELS] + [("tiny_gdn", m) for m in METHOD_NAMES if m != "s0"]
)
def test_presets_replace_the_default_group_and_pass_the_config_checks(model: str, method: str) -> None:
    register()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("config", overrides=[f"model={model}", f"method={method}", "task=minieval", "seed=0"])
    resolved = resolve(config)
    assert resolved.method.name == method
