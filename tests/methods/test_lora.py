"""LoRA: published sizes, training against a plain peft loop, merging and taking it back."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from method_help import MODELS, context, method, model_of, sets, tokens
from peft import LoraConfig, PeftModel, get_peft_model

from s0.errors import ArchitectureError, ConfigError, S0Error
from s0.methods.lora import attached, parameters_per_rank, resolve_rank, target_modules
from s0.state.cache import TrainingCache
from s0.training.jobs import TrainingSet


def _fit(model: Any, **settings: Any) -> Any:
    (adapter,) = method("lora", **{"rank": 4, "n_steps": 4, "lr": 0.01, **settings}).fit(context(model), sets(0))
    return adapter


def _whole(model: Any) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# -- published sizes --------------------------------------------------------------------------------------------------


def _qwen35_4b() -> Any:
    """Qwen3.5-4B's layers without its vocabulary and MLPs, on the meta device."""
    config = transformers.Qwen3_5TextConfig(
        vocab_size=16,
        hidden_size=2560,
        intermediate_size=16,
        num_hidden_layers=32,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=256,
        linear_num_key_heads=16,
        linear_num_value_heads=32,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
    )
    with torch.device("meta"):
        return transformers.Qwen3_5ForCausalLM(config)


def _falcon_h1_7b() -> Any:
    config = transformers.FalconH1Config(
        vocab_size=16,
        hidden_size=3072,
        intermediate_size=16,
        num_hidden_layers=44,
        num_attention_heads=12,
        num_key_value_heads=2,
        head_dim=128,
        mamba_d_ssm=3072,
        mamba_n_heads=24,
        mamba_d_head=128,
        mamba_d_state=256,
        mamba_n_groups=1,
    )
    with torch.device("meta"):
        return transformers.FalconH1ForCausalLM(config)


def test_sizes_on_qwen35_4b_are_the_published_ones() -> None:
    ctx = context(_qwen35_4b())
    modules = target_modules(ctx)
    per_rank = parameters_per_rank(ctx.model, modules)
    assert [round(r * per_rank / 1e6, 1) for r in (24, 48, 64)] == [4.7, 9.4, 12.6]
    assert ctx.layout.n_parameters() == 12_582_912
    assert resolve_rank(ctx, "match", modules) == 64


def test_size_on_falcon_h1_7b_is_the_published_one() -> None:
    ctx = context(_falcon_h1_7b())
    modules = target_modules(ctx)
    assert round(24 * parameters_per_rank(ctx.model, modules) / 1e6, 1) == 22.2
    assert {m.rsplit(".", 1)[-1] for m in modules} == {"q_proj", "k_proj", "v_proj", "in_proj"}


def test_matched_rank_is_the_nearest() -> None:
    ctx = context(model_of("falcon_h1"))
    modules = target_modules(ctx)
    per_rank, wanted = parameters_per_rank(ctx.model, modules), ctx.layout.n_parameters()
    rank = resolve_rank(ctx, "match", modules)
    assert rank == min(range(1, 50), key=lambda r: abs(r * per_rank - wanted))
    assert _fit(ctx.model, rank="match", n_steps=1).trainable_params == rank * per_rank


def test_targets_stay_inside_the_text_model() -> None:
    ctx = context(model_of("qwen3_5 (multimodal wrapper)"))
    modules = target_modules(ctx)
    assert modules
    assert all(".visual." not in m and "self_attn" in m for m in modules)


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_training_equals_a_plain_peft_loop_over_unpadded_examples(name: str) -> None:
    adapter = _fit(model_of(name))
    model = model_of(name)
    ctx, (one,) = context(model), sets(0)
    torch.manual_seed(one.seed)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=target_modules(ctx), task_type="CAUSAL_LM")
    plain = get_peft_model(model, config)
    params = [p for p in plain.parameters() if p.requires_grad]
    adam, losses = torch.optim.Adam(params, lr=0.01), []
    for _ in range(4):
        adam.zero_grad()
        total = 0.0
        for e in one.examples:
            ids = torch.tensor([e.prompt_ids + e.completion_ids])
            cache = None if ctx.layout is None else TrainingCache(ctx.layout, {})
            logits = plain(input_ids=ids, past_key_values=cache, use_cache=cache is not None).logits
            loss = F.cross_entropy(logits[0, len(e.prompt_ids) - 1 : -1], torch.tensor(e.completion_ids))
            (loss / len(one.examples)).backward()
            total += float(loss.detach()) / len(one.examples)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        adam.step()
        losses.append(total)
    assert adapter.curve.losses == pytest.approx(losses, abs=1e-4)
    with torch.no_grad(), adapter.applied(fresh := model_of(name)):
        torch.testing.assert_close(
            fresh(input_ids=tokens(1, 9)).logits, plain(input_ids=tokens(1, 9)).logits, rtol=0, atol=2e-3
        )


def test_training_does_not_touch_global_randomness_and_is_repeatable() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    a = _fit(model_of("qwen3_5"))
    assert torch.equal(torch.rand(1), expected)
    b = _fit(model_of("qwen3_5"))
    assert a.curve == b.curve
    assert _equal(a.tensors, b.tensors)
    (other,) = method("lora", rank=4, n_steps=4, lr=0.01).fit(
        context(model_of("qwen3_5")), [TrainingSet(1, sets(0)[0].examples)]
    )
    assert not _equal(a.tensors, other.tensors)


def test_no_examples_is_an_error() -> None:
    with pytest.raises(S0Error, match="no examples"):
        method("lora").fit(context(model_of("qwen2")), [TrainingSet(0, [])])


def test_a_learning_rate_that_blows_up_leaves_the_model_as_it_was() -> None:
    model = model_of("qwen3_5")
    before = _whole(model)
    with pytest.raises(S0Error, match="not finite"):
        _fit(model, lr=1e30, n_steps=6)
    assert _equal(_whole(model), before)
    assert all(p.requires_grad for p in model.parameters())


# -- application ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_merged_equals_unmerged_equals_peft_and_is_taken_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, ids = model_of(name), tokens(2, 9)
    adapter = _fit(model, lr=0.05)
    before = _whole(model)
    with torch.no_grad():
        base = model(input_ids=ids).logits
        with adapter.applied(model):
            merged = model(input_ids=ids).logits
        adapter.merge = False
        with adapter.applied(model):
            apart = model(input_ids=ids).logits
        assert torch.equal(model(input_ids=ids).logits, base)
        assert _equal(_whole(model), before)
        adapter.save(tmp_path)
        theirs = PeftModel.from_pretrained(model_of(name), str(tmp_path)).merge_and_unload()
        torch.testing.assert_close(merged, theirs(input_ids=ids).logits, rtol=0, atol=1e-4)
    assert float((merged - base).abs().max()) > 0.1
    torch.testing.assert_close(merged, apart, rtol=0, atol=1e-4)


def test_bfloat16_weights_come_back_bit_for_bit_after_an_exception() -> None:
    model = model_of("qwen3_5").bfloat16()
    adapter = _fit(model)
    assert all(t.dtype == torch.float32 for t in adapter.tensors.values())
    before = _whole(model)
    with contextlib.suppress(KeyboardInterrupt), adapter.applied(model):
        assert not _equal(_whole(model), before)
        raise KeyboardInterrupt
    assert _equal(_whole(model), before)


def test_two_adapters_can_be_applied_inside_each_other() -> None:
    model, ids = model_of("qwen2"), tokens(1, 7)
    a, b = _fit(model), _fit(model, lr=0.03)
    before = _whole(model)
    with torch.no_grad(), a.applied(model):
        only_a = model(input_ids=ids).logits
        with b.applied(model):
            assert not torch.equal(model(input_ids=ids).logits, only_a)
        assert torch.equal(model(input_ids=ids).logits, only_a)
    assert _equal(_whole(model), before)


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_unknown_targets_name_the_layers_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no linear layer called qq_proj; choose among .*q_proj"):
        _fit(model_of("qwen2"), targets=["q_proj", "qq_proj"])


def test_layers_peft_refuses_are_one_line_and_leave_no_half_injected_model() -> None:
    """peft accepts in_proj and then fails at out_proj, with LoRA layers already standing in the model."""
    model = model_of("falcon_h1")
    kinds = [type(m) for m in model.modules()]
    with pytest.raises(ConfigError, match=r"method\.targets: .*out_proj"):
        _fit(model, targets=["in_proj", "out_proj"])
    assert [type(m) for m in model.modules()] == kinds
    assert not hasattr(model, "peft_config")


def test_matching_a_model_without_state_is_refused() -> None:
    with pytest.raises(ConfigError, match="no recurrent state to match"):
        _fit(model_of("qwen2"), rank="match")


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    _fit(model_of("qwen2")).save(tmp_path)
    with pytest.raises(ArchitectureError, match=r"lora: layer .* the model has None"):
        method("lora").load(context(model_of("qwen3_5")), tmp_path)


def test_wrapping_leaves_training_mode_and_flags_alone() -> None:
    model = model_of("qwen2").train()
    model.get_input_embeddings().weight.requires_grad_(False)
    with attached(model, target_modules(context(model)), 2, 4.0):
        assert model.training
    assert model.training
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["model.embed_tokens.weight"]
