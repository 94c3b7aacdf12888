"""On CUDA: decode steps captured as graphs see offsets and prefixes, and bf16 merging is undone."""

from __future__ import annotations

import pytest
import torch
from method_help import Letters, context, method, model_of, sets, tokens

from s0.engines import make_engine
from s0.engines.base import Request

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("state_offset", "qwen3_5"), ("state_offset", "falcon_h1"), ("lora", "falcon_h1"), ("prefix", "qwen2")],
)
def test_captured_decoding_equals_plain_decoding(name: str, kind: str) -> None:
    model = model_of(kind).cuda()
    (adapter,) = method(name, n_steps=3, lr=0.05).fit(context(model), sets(0))
    requests = [Request(tuple(tokens(1, n, seed=n)[0].tolist()), 20) for n in (3, 6, 6, 11)]
    with adapter.applied(model) as adapted:
        plain, captured = (
            make_engine("hf", max_slots=4, cuda_graphs=graphs).all(adapted, Letters(), requests)
            for graphs in (False, True)
        )
    assert [g.token_ids for g in plain] == [g.token_ids for g in captured]


@pytest.mark.parametrize("name", ["state_offset", "lora"])
def test_bfloat16_base_logits_come_back(name: str) -> None:
    model, ids = model_of("qwen3_5").bfloat16().cuda(), tokens(2, 70).cuda()
    with torch.no_grad():
        base = model(input_ids=ids).logits
        (adapter,) = method(name, n_steps=2, lr=0.05).fit(context(model), sets(0))
        with adapter.applied(model):
            assert not torch.equal(model(input_ids=ids).logits, base)
        assert torch.equal(model(input_ids=ids).logits, base)
