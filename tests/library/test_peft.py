"""S0 inside PEFT behaves as S0 outside, and as any other PEFT method does."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from s0.errors import ArchitectureError, ConfigError, S0Error
from s0.state.families import describe
from s0.state.initial import InitialState
from s0.state.inject import Injection
from s0.state.random_models import build, build_refused

peft = pytest.importorskip("peft")
import s0.peft as s0_peft  # noqa: E402

ROOT = Path(__file__).parents[2]
FAMILIES = ["qwen3_5", "falcon_h1 (gated norm, biases, time-step floor)", "zamba2", "kimi_linear", "mamba2"]


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


def _batch(lengths=(1, 4, 9)):
    g = torch.Generator().manual_seed(0)
    width = max(lengths)
    ids, mask = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width, dtype=torch.long)
    for r, n in enumerate(lengths):
        ids[r, width - n :], mask[r, width - n :] = torch.randint(2, 90, (n,), generator=g), 1
    return {"input_ids": ids, "attention_mask": mask}


def _wrapped(name, states, **config):
    """(model, layout) with one adapter per state; the first is active."""
    model = build(name)
    layout = describe(model)
    for n, (adapter, state) in enumerate(states.items()):
        options = s0_peft.S0PeftConfig(task_type="CAUSAL_LM", **config)
        if n == 0:
            model = peft.get_peft_model(model, options, adapter_name=adapter)
        else:
            model.add_adapter(adapter, options)
        s0_peft.set_initial_state(model, state, adapter)
    return model.eval(), layout


def _random(name, *seeds, **kw):
    layout = describe(build(name))
    return [InitialState.random(layout, 4.0, seed=s, **kw) for s in seeds]


@torch.no_grad()
def _outside(name, state, batch, **generate):
    model = build(name)
    with Injection(model, describe(model), state):
        return model.generate(**batch, **generate) if generate else model(**batch).logits


GENERATE = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}


@torch.no_grad()
def test_same_logits_and_tokens_as_outside_peft(name):
    (state,) = _random(name, 0, alpha=0.8)
    model, _ = _wrapped(name, {"default": state})
    batch = _batch()
    assert torch.allclose(model(**batch).logits, _outside(name, state, batch), atol=1e-5)
    assert torch.equal(model.generate(**batch, **GENERATE), _outside(name, state, batch, **GENERATE))
    beams = {**GENERATE, "num_beams": 2, "num_return_sequences": 2}
    assert torch.equal(model.generate(**batch, **beams), _outside(name, state, batch, **beams))


@torch.no_grad()
def test_a_single_token_prompt_keeps_its_state_in_the_cache(name):
    (state,) = _random(name, 0)
    model, _ = _wrapped(name, {"default": state})
    batch = _batch((1,))
    assert torch.equal(model.generate(**batch, **GENERATE), _outside(name, state, batch, **GENERATE))


@torch.no_grad()
def test_adapter_off_is_the_base_model_bit_for_bit(name):
    (state,) = _random(name, 0)
    base = build(name)
    model, _ = _wrapped(name, {"default": state})
    for batch in (_batch((1,)), _batch((7,)), _batch()):
        expected = base(**batch).logits
        assert not torch.equal(model(**batch).logits, expected)
        with model.disable_adapter():
            assert torch.equal(model(**batch).logits, expected)
            assert torch.equal(model.generate(**batch, **GENERATE), base.generate(**batch, **GENERATE))
        assert not torch.equal(model(**batch).logits, expected)
    unloaded = model.unload()
    assert type(unloaded) is type(base)
    assert torch.equal(unloaded(**batch).logits, expected)
    assert [n for n, _ in unloaded.named_modules()] == [n for n, _ in base.named_modules()]


@torch.no_grad()
def test_two_adapters_switch_and_add_up():
    a, b = _random("qwen3_5", 0, 1, alpha=0.5)
    model, _ = _wrapped("qwen3_5", {"a": a, "b": b})
    batch = _batch()
    assert torch.allclose(model(**batch).logits, _outside("qwen3_5", a, batch), atol=1e-5)
    model.set_adapter("b")
    assert torch.allclose(model(**batch).logits, _outside("qwen3_5", b, batch), atol=1e-5)
    model.base_model.set_adapter(["a", "b"])
    both = InitialState.mix([a, b], [1.0, 1.0])
    assert torch.allclose(model(**batch).logits, _outside("qwen3_5", both, batch), atol=1e-5)
    model.base_model.set_adapter("a")
    model.delete_adapter("b")
    assert torch.allclose(model(**batch).logits, _outside("qwen3_5", a, batch), atol=1e-5)


@torch.no_grad()
def test_saved_and_loaded_again(tmp_path):
    a, b = _random("falcon_h1", 0, 1, alpha=0.5)
    model, layout = _wrapped("falcon_h1", {"a": a, "b": b}, layers=[0, 1, 2])
    batch = _batch()
    model.set_adapter("a")
    expected_a = model(**batch).logits
    model.set_adapter("b")
    expected_b = model(**batch).logits
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build("falcon_h1"), tmp_path / "a", adapter_name="a").eval()
    again.load_adapter(tmp_path / "b", adapter_name="b")
    assert torch.equal(again(**batch).logits, expected_a)
    again.set_adapter("b")
    assert torch.equal(again(**batch).logits, expected_b)
    state = s0_peft.initial_state(again, "b")
    state.check(layout)
    assert all(torch.equal(state.tensors[i], b.tensors[i]) for i in b.tensors)
    assert state.alpha == 0.5
    assert sum(p.numel() for n, p in again.named_parameters() if "s0_state.b" in n) == layout.n_parameters()


def _loss(model, ids):
    logits = model(input_ids=ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:])


def test_trains_to_the_states_the_fused_trainer_finds():
    """A plain torch loop through PEFT equals the project's own training."""
    from s0.data import Example
    from s0.training.fit import fit_states
    from s0.training.jobs import FitConfig, FitJob

    model = build("qwen3_5")
    layout = describe(model)
    ids = _batch((12, 12))["input_ids"]
    examples = [Example(str(r), ids[r, :1].tolist(), ids[r, 1:].tolist()) for r in range(2)]
    config = FitConfig(n_steps=5, lr=1e-2)
    expected = fit_states(model, layout, [FitJob(examples, config)])[0].state
    model = peft.get_peft_model(model, s0_peft.S0PeftConfig(task_type="CAUSAL_LM"))
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trainable) == layout.n_parameters()
    adam = torch.optim.Adam(trainable, lr=config.lr)
    model.train()
    for _ in range(config.n_steps):
        adam.zero_grad()
        (_loss(model, ids) + config.l2_lambda * s0_peft.l2_penalty(model)).backward()
        torch.nn.utils.clip_grad_norm_(trainable, config.grad_clip)
        adam.step()
    found = s0_peft.initial_state(model)
    for i, t in expected.tensors.items():
        assert float((found.tensors[i] - t).norm() / t.norm()) < 1e-4


@pytest.mark.parametrize("use_cache", [True, False])
def test_gradients_reach_every_layer(name, use_cache):
    model = build(name)
    layout = describe(model)
    model = peft.get_peft_model(model, s0_peft.S0PeftConfig(task_type="CAUSAL_LM")).train()
    batch = _batch((9, 9))
    model(**batch, labels=batch["input_ids"], use_cache=use_cache).loss.backward()
    got = [p for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())]
    assert len(got) == len(layout.layers)


def test_the_transformers_trainer_trains_it(tmp_path):
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    model = build("qwen3_5")
    ids = _batch((12, 12))["input_ids"]
    rows = [{"input_ids": row, "labels": row} for row in ids]
    model = peft.get_peft_model(model, s0_peft.S0PeftConfig(task_type="CAUSAL_LM"))
    before = float(_loss(model.train(), ids).detach())
    options = TrainingArguments(
        str(tmp_path),
        max_steps=8,
        learning_rate=3e-2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(model, options, train_dataset=rows).train()
    assert float(_loss(model.train(), ids).detach()) < before - 0.01
    assert s0_peft.initial_state(model).norms()[0] > 0


def test_alpha_applies_after_training_unless_it_is_inside():
    (state,) = _random("qwen3_5", 0, alpha=0.25)
    batch = _batch((6,))
    model, _ = _wrapped("qwen3_5", {"default": state})
    with torch.no_grad():
        assert torch.allclose(
            model.train()(**batch).logits, _outside("qwen3_5", state.replace(alpha=1.0), batch), atol=1e-5
        )
        assert torch.allclose(model.eval()(**batch).logits, _outside("qwen3_5", state, batch), atol=1e-5)
        inside, _ = _wrapped("qwen3_5", {"default": state}, alpha_inside=True)
        assert torch.allclose(inside.train()(**batch).logits, _outside("qwen3_5", state, batch), atol=1e-5)


def test_default_alpha_is_the_architecture_s():
    model = peft.get_peft_model(build("qwen3_5"), s0_peft.S0PeftConfig())
    assert s0_peft.initial_state(model).alpha == 0.07


def test_layers_can_be_chosen_and_wrong_ones_are_named():
    model = peft.get_peft_model(build("qwen3_5"), s0_peft.S0PeftConfig(layers=[2]))
    assert list(s0_peft.initial_state(model).tensors) == [2]
    with pytest.raises(ConfigError, match=r"\[1\].*choose among the recurrent layers \[0, 2\]"):
        peft.get_peft_model(build("qwen3_5"), s0_peft.S0PeftConfig(layers=[0, 1]))


def test_merging_is_refused():
    model = peft.get_peft_model(build("qwen3_5"), s0_peft.S0PeftConfig())
    with pytest.raises(S0Error, match="not part of the weights"):
        model.merge_and_unload()
    with pytest.raises(S0Error, match="not part of the weights"):
        model.merge_adapter()


def test_a_transformer_is_refused():
    with pytest.raises(ArchitectureError, match="pure Transformer"):
        peft.get_peft_model(build_refused("qwen2 (pure Transformer)"), s0_peft.S0PeftConfig())


def test_continuing_after_right_pads_raises():
    (state,) = _random("qwen3_5", 0)
    model, _ = _wrapped("qwen3_5", {"default": state})
    ids = _batch((6,))["input_ids"]
    with torch.no_grad():
        mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
        cache = model(input_ids=ids, attention_mask=mask, use_cache=True).past_key_values
        with pytest.raises(S0Error, match="pad on the left"):
            model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)


@torch.no_grad()
def test_a_batch_names_an_adapter_per_row():
    """Rows of one call start from their own adapter, in forward and generate, beams included; a wrong name is an error."""
    one, two = _random("qwen3_5", 0, 1, alpha=0.8)
    model, _ = _wrapped("qwen3_5", {"default": one, "two": two})
    batch, names = _batch(), ["two", "__base__", "default"]
    states = [two, None, one]
    assert torch.allclose(model(**batch, adapter_names=names).logits, _outside("qwen3_5", states, batch), atol=1e-5)
    for options in (GENERATE, {**GENERATE, "num_beams": 2, "num_return_sequences": 2}):
        found = model.generate(**batch, **options, adapter_names=names)
        assert torch.equal(found, _outside("qwen3_5", states, batch, **options))
    assert torch.allclose(model(**batch).logits, _outside("qwen3_5", one, batch), atol=1e-5)  # nothing is left behind
    with pytest.raises(ConfigError, match="nosuch: choose among __base__, default, two"):
        model(**batch, adapter_names=["nosuch"] * 3)
    with pytest.raises(S0Error, match="2 names for a batch of 3"):
        model(**batch, adapter_names=["two", "default"])


def test_an_adapter_of_another_model_is_refused(tmp_path):
    (state,) = _random("qwen3_5", 0)
    _wrapped("qwen3_5", {"default": state})[0].save_pretrained(tmp_path)
    with pytest.raises(ArchitectureError, match="made for family 'qwen3_5'"):
        peft.PeftModel.from_pretrained(build("falcon_h1"), tmp_path)
    model, _ = _wrapped("mamba2", {"default": _random("mamba2", 0)[0]})
    with pytest.raises(ArchitectureError, match="made for family 'qwen3_5'"):
        model.load_adapter(tmp_path, "x")


def test_an_adapter_of_the_first_format_loads_its_tensors(tmp_path):
    """One parameter per layer under the module's own name, and no word of the base model."""
    from safetensors.torch import load_file, save_file

    (state,) = _random("qwen3_5", 0)
    _wrapped("qwen3_5", {"default": state})[0].save_pretrained(tmp_path)
    path, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    save_file({k.removesuffix(".weight"): v for k, v in load_file(path).items()}, path)
    written = json.loads(config.read_text())
    written.pop("made_for")
    config.write_text(json.dumps(written))
    again = s0_peft.initial_state(peft.PeftModel.from_pretrained(build("qwen3_5"), tmp_path))
    assert all(torch.equal(again.tensors[i], t) for i, t in state.tensors.items())
    with pytest.raises(ArchitectureError, match="made for the layers"):
        peft.PeftModel.from_pretrained(build("falcon_h1"), tmp_path)


def test_a_reference_copied_by_name_starts_equal():
    """TRL's way to make the reference of a trained adapter: every parameter with ".default." in its name is copied."""
    (state,) = _random("qwen3_5", 0)
    model, _ = _wrapped("qwen3_5", {"default": state})
    model.add_adapter("ref", model.peft_config["default"])
    for name, parameter in model.named_parameters():
        if ".default." in name:
            model.get_parameter(name.replace(".default.", ".ref.")).data.copy_(parameter.data)
    copied = s0_peft.initial_state(model, "ref")
    assert all(torch.equal(copied.tensors[i], t) for i, t in state.tensors.items())


@torch.no_grad()
def test_weighted_adapters_are_mixed():
    one, two = _random("qwen3_5", 0, 1, alpha=0.8)
    model, _ = _wrapped("qwen3_5", {"default": one, "two": two})
    model.add_weighted_adapter(["default", "two"], [0.5, -1.0], "both")
    model.set_adapter("both")
    expected = _outside("qwen3_5", InitialState.mix([one, two], [0.5, -1.0]), _batch())
    assert torch.allclose(model(**_batch()).logits, expected, atol=1e-5)
    with pytest.raises(ConfigError, match="mixed linearly"):
        model.add_weighted_adapter(["default", "two"], [1.0, 1.0], "svd", combination_type="svd")


def test_modules_to_save_is_a_clear_no():
    with pytest.raises(ConfigError, match="learns states only"):
        s0_peft.S0PeftConfig(task_type="CAUSAL_LM", modules_to_save=["lm_head"])


def test_an_evaluation_that_judges_another_model_is_announced():
    with pytest.warns(UserWarning, match="applies in eval mode only"):
        peft.get_peft_model(build("qwen3_5"), s0_peft.S0PeftConfig(task_type="CAUSAL_LM"))


def test_copied_and_pickled(tmp_path):
    (state,) = _random("qwen3_5", 0, alpha=0.8)
    model, _ = _wrapped("qwen3_5", {"default": state})
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    with torch.no_grad():
        expected = model(**_batch()).logits
        assert torch.equal(again(**_batch()).logits, expected)
        assert torch.equal(copy.deepcopy(model)(**_batch()).logits, expected)


def test_a_saved_adapter_says_how_to_load_it(tmp_path):
    """A process that never imported s0.peft cannot know the type; the folder's README and `python -m s0.peft` can help."""
    (state,) = _random("qwen3_5", 0)
    _wrapped("qwen3_5", {"default": state})[0].save_pretrained(tmp_path)
    assert "import s0.peft" in (tmp_path / "README.md").read_text()
    (tmp_path / "reads.py").write_text(
        "import sys\nfrom peft import PeftConfig\nprint(PeftConfig.from_pretrained(sys.argv[1]).peft_type)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "s0.peft", "reads", str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert "S0" in ran.stdout


def test_a_cache_without_recurrent_layers_is_one_line():
    from transformers import DynamicCache

    (state,) = _random("qwen3_5", 0)
    model, layout = _wrapped("qwen3_5", {"default": state})
    with pytest.raises(S0Error, match="holds no recurrent state"):
        model(**_batch(), use_cache=True, **{layout.cache_argument: DynamicCache()})
