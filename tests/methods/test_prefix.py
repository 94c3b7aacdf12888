"""Prefix tuning against peft itself: logits, gradients' result, generation; engines; refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from method_help import Letters, context, method, model_of, qwen2, sets, tokens
from peft import PrefixTuningConfig, get_peft_model

from s0.engines import make_engine
from s0.engines.base import Request
from s0.errors import ArchitectureError, S0Error
from s0.state.random_models import MODELS

N = 6


def _fit(model: Any, **settings: Any) -> Any:
    (adapter,) = method("prefix", **{"n_virtual_tokens": N, "n_steps": 4, "lr": 0.05, **settings}).fit(
        context(model), sets(0)
    )
    return adapter


def _peft(model: Any, adapter: Any) -> Any:
    """peft's own model with the learned prefix."""
    config = PrefixTuningConfig(num_virtual_tokens=N, prefix_projection=False, task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, config).eval()
    wrapped.prompt_encoder["default"].load_prompt_embeddings(adapter.embeddings)
    return wrapped


def test_training_equals_a_plain_peft_loop_over_unpadded_examples() -> None:
    adapter, model, (one,) = _fit(qwen2()), qwen2(), sets(0)
    torch.manual_seed(one.seed)
    config = PrefixTuningConfig(num_virtual_tokens=N, prefix_projection=True, task_type="CAUSAL_LM")
    plain = get_peft_model(model, config)
    params = [p for p in plain.parameters() if p.requires_grad]
    assert adapter.trainable_params == sum(p.numel() for p in params)
    adam, losses = torch.optim.Adam(params, lr=0.05), []
    for _ in range(4):
        adam.zero_grad()
        total = 0.0
        for e in one.examples:
            logits = plain(input_ids=torch.tensor([e.prompt_ids + e.completion_ids])).logits
            loss = F.cross_entropy(logits[0, len(e.prompt_ids) - 1 : -1], torch.tensor(e.completion_ids))
            (loss / len(one.examples)).backward()
            total += float(loss.detach()) / len(one.examples)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        adam.step()
        losses.append(total)
    assert adapter.curve.losses == pytest.approx(losses, abs=1e-4)
    encoder = plain.prompt_encoder["default"]
    torch.testing.assert_close(adapter.embeddings, encoder(torch.arange(N)).detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [{}, {"attn_implementation": "eager"}, {"family": "Qwen3", "head_dim": 16}],
    ids=["sdpa", "eager", "qwen3"],
)
def test_logits_and_generation_equal_pefts_own(fields: Any) -> None:
    model, ids = qwen2(**fields), tokens(2, 7)
    adapter = _fit(model)
    options: dict[str, Any] = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    with torch.no_grad():
        with adapter.applied(model):
            logits = model(input_ids=ids).logits
            out = model.generate(input_ids=ids * mask, attention_mask=mask, **options)
        theirs = _peft(model, adapter)
        torch.testing.assert_close(logits, theirs(input_ids=ids).logits, rtol=0, atol=1e-5)
        assert torch.equal(out, theirs.generate(input_ids=ids * mask, attention_mask=mask, **options))


@pytest.mark.parametrize("fields", [{}, {"family": "Qwen3", "head_dim": 16}], ids=["qwen2", "qwen3"])
def test_batched_engine_equals_generate(fields: Any) -> None:
    model = qwen2(**fields)
    adapter = _fit(model)
    requests = [Request(tuple(tokens(1, n, seed=n)[0].tolist()), 10) for n in (1, 6, 6, 11, 70)]
    base = make_engine("hf", max_slots=4).all(model, Letters(), requests)
    with adapter.applied(model) as adapted:
        batched = make_engine("hf", max_slots=4).all(adapted, Letters(), requests)
        one_by_one = make_engine("naive").all(adapted, Letters(), requests)
    assert [g.token_ids for g in batched] == [g.token_ids for g in one_by_one]
    assert [g.token_ids for g in batched] != [g.token_ids for g in base]
    again = make_engine("hf", max_slots=4).all(model, Letters(), requests)
    assert [g.token_ids for g in again] == [g.token_ids for g in base]


def test_left_padded_rows_equal_unpadded_rows() -> None:
    model, ids = qwen2(), tokens(2, 9)
    adapter = _fit(model)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.no_grad(), adapter.applied(model):
        both = model(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
        alone = model(input_ids=ids[:1, 4:]).logits
    torch.testing.assert_close(both[0, 4:], alone[0], rtol=0, atol=1e-5)


def test_recomputed_layers_give_the_same_prefix() -> None:
    m = method("prefix", n_virtual_tokens=N, n_steps=3, lr=0.05)
    (plain,), (recomputed,) = (m.fit(context(qwen2(), checkpointing=c), sets(0)) for c in (False, True))
    torch.testing.assert_close(plain.embeddings, recomputed.embeddings, rtol=0, atol=1e-6)


def test_without_projection_the_parameters_are_the_keys_and_values() -> None:
    adapter = _fit(qwen2(), projection=False)
    assert adapter.trainable_params == adapter.embeddings.numel()


@pytest.mark.parametrize("name", ["qwen3_5", "falcon_h1", "mamba2", "nemotron_h", "zamba2"])
def test_models_with_recurrent_layers_are_refused(name: str) -> None:
    assert name in MODELS
    with pytest.raises(ArchitectureError, match="no keys and values to put a prefix in front of"):
        _fit(model_of(name))


def test_a_prefix_of_another_width_is_refused(tmp_path: Path) -> None:
    _fit(qwen2()).save(tmp_path)
    with pytest.raises(ArchitectureError, match="numbers per virtual token"):
        method("prefix").load(context(qwen2(num_key_value_heads=4)), tmp_path)


def test_a_prepared_mask_is_refused_rather_than_hiding_the_prefix() -> None:
    model = qwen2()
    with pytest.raises(S0Error, match="attention_mask"), _fit(model).applied(model):
        model(input_ids=tokens(1, 4), attention_mask=torch.ones(1, 1, 4, 4, dtype=torch.bool))
