"""describe: shapes come from the modules, the text backbone is found in every wrapping, refusals name the way out."""

from __future__ import annotations

import pytest
import torch

from s0.errors import ArchitectureError
from s0.state.families import FAMILIES, describe
from s0.state.random_models import MODELS, build, build_refused
from s0.state.recurrences import DEFAULT_ALPHA


def test_shapes_come_from_the_modules():
    """Key and value dimensions differ, so a swapped or tabulated shape would be noticed."""
    layout = describe(build("qwen3_5"))
    assert layout.layers == (0, 2)
    assert layout.shapes == {0: (4, 8, 12), 2: (4, 8, 12)}
    assert layout.n_parameters() == 2 * 4 * 8 * 12
    assert layout.bytes_per_row() == 4 * layout.n_parameters()
    assert describe(build("falcon_h1")).shapes[1] == (4, 12, 8)


@pytest.mark.parametrize(
    ("name", "backbone", "argument"),
    [
        ("qwen3_5", "model", {"past_key_values", "cache"}),
        ("qwen3_5 (multimodal wrapper)", "model.language_model", {"past_key_values", "cache"}),
        ("glm5_next", "model.language_model", {"past_key_values", "cache"}),
        ("mamba2", "backbone", {"cache_params", "cache"}),
    ],
)
def test_backbone_and_cache_argument(name, backbone, argument):
    model = build(name)
    layout = describe(model)
    assert layout.text_model_name == backbone
    assert layout.text_model is model.get_submodule(backbone)
    assert layout.cache_argument in argument
    assert layout.mixer_cache_argument in {"cache_params", "cache"}
    assert layout.positions == (name != "mamba2")


def test_a_bare_backbone_is_described_too():
    layout = describe(build("qwen3_5").model)
    assert layout.text_model_name == ""
    assert layout.layers == (0, 2)


def test_inside_peft_lora():
    peft = pytest.importorskip("peft")
    model = build("falcon_h1")
    targets = list(describe(model).family.lora_targets)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))
    layout = describe(wrapped)
    assert layout.layers == (0, 1, 2)
    assert wrapped.get_submodule(layout.text_model_name) is layout.text_model
    lora = wrapped.get_nb_trainable_parameters()[0]
    assert lora > 0


@pytest.mark.parametrize("name", ["mamba", "qwen2 (pure Transformer)"])
def test_mamba_1_and_transformers_are_refused_in_one_line(name):
    with pytest.raises(ArchitectureError) as caught:
        describe(build_refused(name))
    assert "\n" not in str(caught.value)
    assert type(build_refused(name)).__name__ in str(caught.value)


def test_two_kinds_of_recurrence_in_one_model_are_refused():
    both = torch.nn.ModuleList([build("qwen3_5"), build("mamba2")])
    with pytest.raises(ArchitectureError, match="one kind of recurrence"):
        describe(both)


def test_published_alphas():
    """Paper: 0.07 for GatedDeltaNet, 0.65 for Mamba-2."""
    assert DEFAULT_ALPHA["gated_delta_net"] == 0.07
    assert DEFAULT_ALPHA["mamba2"] == 0.65
    assert FAMILIES["Qwen3_5GatedDeltaNet"].default_alpha == 0.07
    assert FAMILIES["FalconH1Mixer"].default_alpha == 0.65


@pytest.mark.parametrize("name", {n.split(" ")[0]: n for n in MODELS}.values())
def test_lora_targets_exist(name):
    family = describe(build(name)).family
    names = {module.rsplit(".", 1)[-1] for module, _ in build(name).named_modules()}
    assert set(family.lora_targets) & names
