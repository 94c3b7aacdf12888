"""The shipped folders load through the library's own Auto classes, and the tokenizer behaves like Qwen's."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.qwen3_5 import modeling_qwen3_5

from s0.errors import ConfigError, DataError
from s0.tiny import card, models, pretrain, tokenizer

CLASSES = {
    "tiny_gdn": "Qwen3_5ForCausalLM",
    "tiny_mamba2": "FalconH1ForCausalLM",
    "tiny_transformer": "Qwen3ForCausalLM",
}


@pytest.fixture(params=models.NAMES)
def name(request):
    return request.param


def test_auto_classes_load_it(name):
    model = AutoModelForCausalLM.from_pretrained(models.embedded_model(name))
    assert type(model).__name__ == CLASSES[name]
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == models.END_ID
    assert model.config.get_text_config().vocab_size == tokenizer.VOCAB_SIZE


def test_size_stays_small():
    files = [f for n in models.NAMES for f in models.embedded_model(n).iterdir()]
    assert sum(f.stat().st_size for f in files) < 10e6


def test_tokenizer_form(name):
    tok = AutoTokenizer.from_pretrained(models.embedded_model(name))
    assert (tok.pad_token_id, tok.eos_token_id) == (models.PAD_ID, models.END_ID)
    assert tok.convert_tokens_to_ids("<|im_start|>") == models.START_ID
    # the corpus has no more merges to give; the embedding is padded to a multiple of 64, as real checkpoints do
    assert tokenizer.VOCAB_SIZE - 64 < len(tok) <= tokenizer.VOCAB_SIZE
    messages = [{"role": "user", "content": "def f(x):\n"}]
    off = tok.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=False, tokenize=False)
    on = tok.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=True, tokenize=False)
    head = "<|im_start|>user\ndef f(x):\n<|im_end|>\n<|im_start|>assistant\n"
    assert off == head + "<think>\n\n</think>\n\n"
    assert on == head + "<think>\n"
    assert len(tok("<think>\n\n</think>\n\n")["input_ids"]) == 1
    assert tok.decode(tok(off)["input_ids"]) == off


@pytest.mark.parametrize(
    "text", ["héllo\n\n\n   x  \t''' ``` 12 'ab' \"\"\"", "def f():\n    return {'a': [1, 2]}\n", ""]
)
def test_tokenizer_round_trips_any_text(text):
    tok = AutoTokenizer.from_pretrained(models.embedded_model("tiny_gdn"))
    assert tok.decode(tok(text)["input_ids"]) == text


def test_tokenizer_is_rebuilt_identically():
    rebuilt = tokenizer.train(card.TOKENIZER_SEED).backend_tokenizer.to_str(pretty=True)
    for model in models.NAMES:
        shipped = (models.embedded_model(model) / "tokenizer.json").read_text(encoding="utf-8")
        assert json.loads(shipped)["model"] == json.loads(rebuilt)["model"]


def test_all_models_share_one_tokenizer():
    assert len({card.sha256(models.embedded_model(n) / "tokenizer.json") for n in models.NAMES}) == 1


def test_chunk_kernel_equals_the_librarys():
    torch.manual_seed(0)
    q, k = torch.randn(2, 45, 2, 8), torch.randn(2, 45, 2, 8)
    v, g, beta = torch.randn(2, 45, 4, 8), -torch.rand(2, 45, 4), torch.rand(2, 45, 4)
    state = torch.randn(2, 4, 8, 8, requires_grad=True)
    kwargs = {"g": g, "beta": beta, "output_final_state": True, "use_qk_l2norm_in_kernel": True}
    reference = modeling_qwen3_5.torch_recurrent_gated_delta_rule
    want, want_state = reference(q, k, v, initial_state=state, **kwargs)
    got, got_state = pretrain.chunk_gated_delta_rule(q, k, v, initial_state=state, chunk_size=16, **kwargs)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got_state, want_state, atol=1e-5, rtol=1e-4)
    (a,) = torch.autograd.grad(got.square().sum(), state)
    (b,) = torch.autograd.grad(reference(q, k, v, initial_state=state, **kwargs)[0].square().sum(), state)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_pretraining_repeats_bit_for_bit(name, tmp_path):
    for run in "ab":
        card.train_and_save(name, tmp_path / run, steps=2)
    assert card.sha256(tmp_path / "a" / "model.safetensors") == card.sha256(tmp_path / "b" / "model.safetensors")


def test_unknown_model_is_one_line():
    with pytest.raises(ConfigError, match="choose one of tiny_gdn"):
        models.embedded_model("tiny_gnd")


def test_tampered_weights_are_noticed(tmp_path):
    source = models.embedded_model("tiny_gdn")
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(DataError, match=r"model\.safetensors does not match"):
        card.check("tiny_gdn", tmp_path)
