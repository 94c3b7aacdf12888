"""The CPU kernel of the gated delta rule against transformers' reference: outputs, final state, every gradient."""

from __future__ import annotations

import inspect
import threading
from typing import Any

import pytest
import torch
from transformers.models.qwen3_5 import modeling_qwen3_5

from s0.kernels.delta_rule import LONGEST, _Chunk, gated_delta_rule
from s0.kernels.routing import cpu_kernels
from s0.state.cache import TrainingCache
from s0.state.families import describe
from s0.state.random_models import build

reference = inspect.unwrap(modeling_qwen3_5.torch_chunk_gated_delta_rule)


def inputs(length: int, groups: int, heads: int, k: int, v: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    torch.manual_seed(length)
    mixed = torch.randn(3, 2 * groups * k + heads * v, length).to(dtype).requires_grad_()
    return {
        "mixed": mixed,
        "g": (-torch.nn.functional.softplus(torch.randn(3, length, heads))).requires_grad_(),
        "beta": (2 * torch.rand(3, length, heads)).to(dtype).requires_grad_(),
        "start": torch.randn(3, heads, k, v).requires_grad_(),
        "sizes": (groups, heads, k, v),
    }


def call(kernel: Any, x: dict[str, Any], final: bool, norm: bool = True) -> list[torch.Tensor]:
    """Outputs, final state and gradients as a mixer would ask for them: channel-first projections, split into views."""
    groups, heads, k, v = x["sizes"]
    batch, _, length = x["mixed"].shape
    parts = x["mixed"].transpose(1, 2).split([groups * k, groups * k, heads * v], -1)
    q, key, value = (
        p.reshape(batch, length, -1, n) * (1.0 if norm else 0.1) for p, n in zip(parts, (k, k, v), strict=True)
    )
    out, after = kernel(
        q,
        key,
        value,
        g=x["g"],
        beta=x["beta"],
        initial_state=x["start"],
        output_final_state=final,
        use_qk_l2norm_in_kernel=norm,
    )
    assert out.dtype == x["mixed"].dtype
    assert out.shape == (batch, length, heads, v)
    torch.manual_seed(7)
    loss = (out.float() * torch.randn(out.shape)).sum()
    results = [out]
    if final:
        loss = loss + (after * torch.randn(after.shape)).sum()
        results.append(after)
    else:
        assert after is None
    wrt = [x["mixed"], x["g"], x["beta"], x["start"]]
    return [t.detach().float() for t in (*results, *torch.autograd.grad(loss, wrt))]


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("sizes", [(2, 2, 16, 16), (2, 4, 16, 32), (1, 1, 8, 4)])
@pytest.mark.parametrize("length", [1, 2, 47, LONGEST, LONGEST + 1, 128, 200])
def test_equals_the_reference_outputs_and_gradients(length: int, sizes: Any, norm: bool, final: bool) -> None:
    x = inputs(length, *sizes)
    for mine, theirs in zip(call(gated_delta_rule, x, final, norm), call(reference, x, final, norm), strict=True):
        assert float((mine - theirs).norm()) <= 3e-5 * float(theirs.norm())


def test_half_precision_inputs_round_where_the_reference_rounds() -> None:
    x = inputs(50, 2, 2, 16, 16, torch.bfloat16)
    for mine, theirs in zip(call(gated_delta_rule, x, True), call(reference, x, True), strict=True):
        assert float((mine - theirs).norm()) <= 1e-2 * float(theirs.norm())


def test_attack_decay_that_overflows_above_the_diagonal() -> None:
    """exp(c_i - c_j) for j > i is inf here; 0 * inf would turn outputs and gradients into nan."""
    x = inputs(40, 2, 2, 16, 16)
    x["g"] = torch.full_like(x["g"], -50.0).requires_grad_()
    for mine, theirs in zip(call(gated_delta_rule, x, True), call(reference, x, True), strict=True):
        assert bool(torch.isfinite(mine).all())
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_by_finite_differences_in_double() -> None:
    torch.manual_seed(0)
    n, t, k, v = 2, 5, 3, 4
    shapes = [(n, t, k), (n, t, k), (n, t, v), (n, t), (n, t), (n, k, v)]
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    tensors[3] = (-torch.rand(n, t, dtype=torch.float64).cumsum(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: _Chunk.apply(*a, False), tensors)
    assert torch.autograd.gradcheck(lambda *a: _Chunk.apply(*a, True)[0], tensors)
    # what an intermediate chunk sees when only its state is used further on
    assert torch.autograd.gradcheck(lambda *a: _Chunk.apply(*a, False)[1], tensors)


def test_only_the_start_needs_a_gradient() -> None:
    """The lowest layer's short cut gives the same gradient as the full backward."""
    x = inputs(47, 2, 2, 16, 16)
    full = call(gated_delta_rule, x, False)[-1]
    for name in ("mixed", "g", "beta"):
        x[name] = x[name].detach()
    q, key, value = (p.reshape(3, 47, 2, 16) for p in x["mixed"].transpose(1, 2).split([32, 32, 32], -1))
    out, _ = gated_delta_rule(q, key, value, x["g"], x["beta"], initial_state=x["start"], use_qk_l2norm_in_kernel=True)
    torch.manual_seed(7)
    (short,) = torch.autograd.grad((out * torch.randn(out.shape)).sum(), [x["start"]])
    assert torch.equal(short, full)


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_next", "olmo_hybrid"])
def test_models_reach_it_in_this_thread_and_only_inside_the_context(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name).eval()
    layout = describe(model)
    used: list[str] = []
    import s0.kernels.routing as module

    def spy(*args: Any, **kwargs: Any) -> Any:
        used.append(threading.current_thread().name)
        return gated_delta_rule(*args, **kwargs)

    monkeypatch.setattr(module, "gated_delta_rule", spy)
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    rows = {i: torch.randn(1, *layout.shapes[i]) for i in layout.layers}

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=ids, **{layout.cache_argument: TrainingCache(layout, rows)}).logits

    plain = forward()
    assert not used
    with cpu_kernels(layout):
        fast = forward()
        assert len(used) == len(layout.layers)
        other = threading.Thread(target=forward)
        other.start()
        other.join()
    forward()
    assert set(used) == {threading.current_thread().name}
    assert len(used) == len(layout.layers)
    assert torch.allclose(fast, plain, rtol=1e-4, atol=1e-5)
