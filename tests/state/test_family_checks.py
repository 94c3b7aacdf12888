"""Every family keeps every check; what cannot is refused with the reason; nothing in transformers is overlooked."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest
import torch
import transformers

from s0.cli import command
from s0.errors import ArchitectureError
from s0.state import matrix
from s0.state.checks import CHECKS, Broken, padded
from s0.state.compat import mixers_ask
from s0.state.families import FAMILIES, REFUSED, describe
from s0.state.random_models import _RECIPES, MODELS, REFUSED_MODELS, build, build_refused

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = build(request.param)
    yield model, describe(model)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("check", CHECKS)
def test_check(model, check):
    CHECKS[check](*model)


def test_every_family_has_a_random_model():
    """What the installed transformers has is built; what it lacks has a recipe and is absent."""
    covered = {describe(build(name)).family.name for name in MODELS}
    installed = {f.name for f in FAMILIES.values() if importlib.util.find_spec(f"transformers.models.{f.name}")}
    assert covered == installed
    assert {name.split(" ")[0] for name in _RECIPES} == {f.name for f in FAMILIES.values()}


@pytest.mark.parametrize("name", REFUSED_MODELS)
def test_refused_with_a_reason(name):
    with pytest.raises(ArchitectureError) as caught:
        describe(build_refused(name))
    message = str(caught.value)
    assert "\n" not in message
    assert "supported family" in message
    assert any(reason in message for reason in REFUSED.values()) or "no recurrent layer" in message


def test_an_unknown_recurrent_mixer_is_named_instead_of_being_called_a_transformer():
    class NewMixer(torch.nn.Module):
        layer_idx, A_log = 0, torch.zeros(1)

    with pytest.raises(ArchitectureError, match="NewMixer, a recurrent mixer without an entry"):
        describe(torch.nn.Sequential(NewMixer()))


def test_no_recurrent_mixer_of_transformers_is_overlooked():
    """Every class of the installed transformers that asks the cache for a recurrent state has an entry or a refusal."""
    found = set()
    for path in sorted((Path(transformers.__file__).parent / "models").glob("*/modeling_*.py")):
        source = path.read_text(encoding="utf-8")
        asks = "get_recurrent_state" if mixers_ask() else ".recurrent_states[0]"
        if asks not in source:
            continue
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and asks in (ast.get_source_segment(source, node) or ""):
                found.add(node.name)
    assert len(found) >= 12
    assert found <= set(FAMILIES) | set(REFUSED), sorted(found - set(FAMILIES) - set(REFUSED))


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_next", "olmo_hybrid", "kimi_linear", "falcon_h1", "mamba2"])
def test_check_notices_open_gates(name):
    """Without the closed gates the padding check must fail: it is the check that is tested here."""
    model = build(name)
    layout = describe(model)
    open_gates = dataclasses.replace(layout.family, pad_gates=lambda mixer: [])
    with pytest.raises(Broken):
        padded(model, dataclasses.replace(layout, family=open_gates))


@pytest.mark.parametrize("name", ["nemotron_h", "zamba2"])
def test_check_notices_the_time_step_floor(name):
    model = build(name)
    layout = describe(model)
    assert layout.family.pad_decay(layout.mixers[layout.layers[0]]) is not None
    forgotten = dataclasses.replace(layout.family, pad_decay=lambda mixer: None)
    with pytest.raises(Broken):
        padded(model, dataclasses.replace(layout, family=forgotten))


def test_documentation_is_the_registry():
    """The refusals name layers of the installed transformers, so the page belongs to one version of it."""
    pinned = re.search(r"^transformers==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    if pinned is None or pinned[1] != transformers.__version__:
        pytest.skip("docs/families.md is written with the pinned transformers")
    assert (ROOT / "docs" / "families.md").read_text(encoding="utf-8") == matrix.page(), (
        "python scripts/families.py --write docs/families.md"
    )


def test_script_prints_one_family(capsys):
    assert command(["families", "mamba2"]) == 0
    out = capsys.readouterr().out
    assert "mamba2" in out
    assert "BROKEN" not in out


def test_script_names_the_families_on_a_typo(capsys):
    assert command(["families", "mamba3"]) == 2
    assert "choose among qwen3_5" in capsys.readouterr().err


def test_script_reports_what_is_broken(capsys, monkeypatch):
    def fails(model, layout):
        raise Broken("logits differ by 1")

    monkeypatch.setitem(matrix.CHECKS, "save / load", fails)
    assert command(["families", "mamba2"]) == 1
    assert "mamba2, save / load: logits differ by 1" in capsys.readouterr().out
