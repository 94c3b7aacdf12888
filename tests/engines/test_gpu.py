"""The engine and fused training on a CUDA device: captured graphs against the plain step, bf16 weights with fp32 states."""

from __future__ import annotations

import pytest
import torch

from s0.data import Example
from s0.engines.base import Request, request_seed
from s0.engines.hf import HFEngine
from s0.state.families import describe
from s0.state.initial import InitialState
from s0.state.random_models import build
from s0.training.fit import fit_states
from s0.training.jobs import FitConfig, FitJob

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class Spelling:
    eos_token_id = None

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(map(str, ids))


@pytest.mark.parametrize("family", ["qwen3_5", "falcon_h1"])
def test_captured_graphs_decode_what_the_plain_step_decodes(family: str) -> None:
    model = build(family).eval().to("cuda")
    states = {k: InitialState.random(describe(model), 3.0, k) for k in range(3)}
    g = torch.Generator().manual_seed(0)
    requests = [
        Request(tuple(torch.randint(1, 90, (5 + k % 3,), generator=g).tolist()), 90, k % 3, 0.7, 0.95, request_seed(k))
        for k in range(40)
    ]
    plain = HFEngine(max_slots=32, cuda_graphs=False).all(model, Spelling(), requests, states)
    engine = HFEngine(max_slots=32, cuda_graphs=True)
    graphed = engine.all(model, Spelling(), requests, states)
    assert engine.notes["cuda_graphs"] > 0
    assert [r.token_ids for r in graphed] == [r.token_ids for r in plain]


@pytest.mark.parametrize("family", ["qwen3_5", "falcon_h1"])
def test_training_on_cuda_agrees_with_cpu(family: str) -> None:
    examples = [Example(str(k), [1 + k, 2, 3], [4, 5 + k, 6]) for k in range(4)]
    results = []
    for device in ("cpu", "cuda"):
        model = build(family).eval().to(device)
        layout = describe(model)
        (r,) = fit_states(model, layout, [FitJob(examples, FitConfig(n_steps=5))])
        results.append(r.state)
    for i, t in results[0].tensors.items():
        assert torch.allclose(results[1].tensors[i], t, rtol=1e-2, atol=1e-5)


def test_bf16_model_keeps_fp32_states() -> None:
    model = build("qwen3_5").eval().to("cuda", torch.bfloat16)
    layout = describe(model)
    (r,) = fit_states(model, layout, [FitJob([Example("a", [1, 2, 3], [4, 5])], FitConfig(n_steps=2))])
    assert all(t.dtype == torch.float32 for t in r.state.tensors.values())
    out = HFEngine(max_slots=16).all(model, Spelling(), [Request((1, 2, 3), 8, 0)], {0: r.state})
    assert len(out[0].token_ids) == 8
