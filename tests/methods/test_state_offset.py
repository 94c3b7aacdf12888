"""State offset on whole models: every family, pads, decoding, engines, training, and what happens when it must not work."""

from __future__ import annotations

import inspect
import sys
import threading
from typing import Any

import pytest
import torch
from method_help import Letters, context, method, model_of, sets, tokens
from torch import Tensor

from s0.engines import make_engine
from s0.engines.base import Request
from s0.errors import ArchitectureError, S0Error
from s0.kernels.offsets import Offsets
from s0.state.cache import S0Cache, TrainingCache
from s0.state.families import Layout, describe
from s0.state.initial import InitialState
from s0.state.inject import Injection
from s0.state.random_models import MODELS, build
from s0.training.fit import fit_states
from s0.training.jobs import FitConfig, FitJob


def _offsets(layout: Layout, rows: int = 1, scale: float = 0.3) -> dict[int, Tensor]:
    g = torch.Generator().manual_seed(1)
    return {i: scale * torch.randn(rows, *layout.shapes[i], generator=g) for i in layout.layers}


@pytest.mark.parametrize("mode", ["accumulate", "readout"])
@pytest.mark.parametrize("name", MODELS)
def test_prefill_equals_token_by_token_in_every_family(name: str, mode: str) -> None:
    model = build(name)
    layout = describe(model)
    ids, start = tokens(2, 21), _offsets(layout, 2)
    arg = layout.cache_argument
    with torch.no_grad():
        base = model(input_ids=ids, use_cache=True, **{arg: S0Cache(layout, start)}).logits
        with Offsets(layout, _offsets(layout), mode):
            full = model(input_ids=ids, use_cache=True, **{arg: S0Cache(layout, start)}).logits
            cache, steps = S0Cache(layout, start), []
            for t in range(ids.shape[1]):
                at: dict[str, Any] = {} if arg == "cache_params" else {"position_ids": torch.full((2, 1), t)}
                steps.append(model(input_ids=ids[:, t : t + 1], use_cache=True, **{arg: cache}, **at).logits)
    assert float((full - base).abs().max()) > 0.1
    torch.testing.assert_close(torch.cat(steps, 1), full, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["qwen3_5", "falcon_h1", "falcon_h1 (gated norm, biases, time-step floor)"])
def test_left_padded_rows_equal_unpadded_rows_and_each_row_has_its_own_offset(name: str) -> None:
    model = build(name)
    layout = describe(model)
    ids, offsets = tokens(2, 14), _offsets(layout, 2)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    state = InitialState.random(layout, 2.0, seed=1)
    with torch.no_grad(), Injection(model, layout, state):
        with Offsets(layout, offsets):
            both = model(
                input_ids=ids * mask, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)
            ).logits
        for row, start in ((0, 5), (1, 0)):
            with Offsets(layout, {i: o[row : row + 1] for i, o in offsets.items()}):
                alone = model(input_ids=ids[row : row + 1, start:]).logits
            torch.testing.assert_close(both[row, start:], alone[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["qwen3_5", "falcon_h1"])
def test_gradients_equal_finite_differences(name: str) -> None:
    model = build(name)
    layout = describe(model)
    ids = tokens(1, 11)
    offsets = {i: o.requires_grad_() for i, o in _offsets(layout).items()}

    def loss() -> Tensor:
        with Offsets(layout, offsets):
            out = model(input_ids=ids, past_key_values=TrainingCache(layout, {}), use_cache=True).logits
        return out.log_softmax(-1)[0, -1, 7]

    loss().backward()
    g = torch.Generator().manual_seed(2)
    for o in offsets.values():
        direction = torch.randn(o.shape, generator=g)
        direction /= direction.norm()
        values = []
        with torch.no_grad():
            for sign in (1, -1):
                o.add_(sign * 1e-2 * direction)
                values.append(float(loss()))
                o.sub_(sign * 1e-2 * direction)
        slope = (values[0] - values[1]) / 2e-2
        assert o.grad is not None
        assert float((o.grad * direction).sum()) == pytest.approx(slope, rel=2e-2, abs=5e-4)


@pytest.mark.parametrize("name", ["qwen3_5", "falcon_h1"])
def test_fused_training_equals_separate_training(name: str) -> None:
    model = model_of(name)
    m = method("state_offset", n_steps=3, lr=0.02)
    together = m.fit(context(model), sets(0, 1))
    for n, adapter in enumerate(together):
        (alone,) = m.fit(context(model), sets(n))
        for i, t in alone.tensors.items():
            torch.testing.assert_close(adapter.tensors[i], t, rtol=0, atol=2e-4)
    assert together[0].curve.losses[0] != together[1].curve.losses[0]
    assert together[0].curve.losses[-1] < together[0].curve.losses[0]


def test_recomputed_layers_give_the_same_offsets() -> None:
    model = model_of("qwen3_5")
    m = method("state_offset", n_steps=2, lr=0.02)
    (plain,), (recomputed,) = (m.fit(context(model, checkpointing=c), sets(0)) for c in (False, True))
    for i, t in plain.tensors.items():
        torch.testing.assert_close(recomputed.tensors[i], t, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen3_5", "falcon_h1"])
def test_batched_engine_equals_generate(name: str) -> None:
    model = model_of(name)
    (adapter,) = method("state_offset", n_steps=3, lr=0.1).fit(context(model), sets(0))
    requests = [Request(tuple(tokens(1, n, seed=n)[0].tolist()), 10) for n in (1, 6, 6, 11)]
    base = make_engine("hf", max_slots=4).all(model, Letters(), requests)
    with adapter.applied(model) as adapted:
        batched = make_engine("hf", max_slots=4).all(adapted, Letters(), requests)
        one_by_one = make_engine("naive").all(adapted, Letters(), requests)
    assert [g.token_ids for g in batched] == [g.token_ids for g in one_by_one]
    assert [g.token_ids for g in batched] != [g.token_ids for g in base]


def test_alpha_scales_the_offset_at_use_time(tmp_path: Any) -> None:
    model = model_of("qwen3_5")
    ctx = context(model)
    (adapter,) = method("state_offset", n_steps=2, lr=0.05).fit(ctx, sets(0))
    adapter.save(tmp_path)
    ids = tokens(1, 8)
    with torch.no_grad():
        base = model(input_ids=ids).logits
        for alpha, same in ((0.0, True), (0.5, False)):
            with method("state_offset", alpha=alpha).load(ctx, tmp_path).applied(model):
                assert torch.equal(model(input_ids=ids).logits, base) is same


@pytest.mark.parametrize("name", ["qwen3_5", "falcon_h1"])
def test_side_by_side_training_gives_the_bytes_of_one_pass_after_another(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    results = {}
    try:
        for n_parallel in (1, 3):
            torch.set_num_threads(n_parallel)
            monkeypatch.setattr("s0.training.fit.parallel_passes", lambda model, n=n_parallel: n)
            m = method("state_offset", n_steps=3, lr=0.01)
            ctx = context(model_of(name), token_budget=40)
            results[n_parallel] = m.fit(ctx, [*sets(0), *sets(1)])
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(results[1], results[3], strict=True):
        assert a.curve.losses == b.curve.losses
        assert all(torch.equal(a.tensors[i], b.tensors[i]) for i in a.tensors)


# -- the context ------------------------------------------------------------------------------------------------------


def test_kernels_are_restored_after_an_exception_inside_a_layer() -> None:
    model = build("qwen3_5")
    layout = describe(model)
    module = sys.modules[type(layout.mixers[0]).__module__]
    before = {n: getattr(module, n) for n in (layout.family.recurrence.chunk, layout.family.recurrence.step)}
    wrong = {i: torch.zeros(1, 2, 3, 4) for i in layout.layers}
    with pytest.raises(RuntimeError), Offsets(layout, wrong):
        model(input_ids=tokens(1, 6))
    assert all(getattr(module, n) is f for n, f in before.items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in layout.mixers.values())


def test_another_model_of_the_family_is_not_touched_while_the_context_is_open() -> None:
    mine, other = build("qwen3_5"), build("qwen3_5", seed=1)
    ids = tokens(1, 6)
    with torch.no_grad():
        want = other(input_ids=ids).logits
        with Offsets(describe(mine), _offsets(describe(mine))):
            assert torch.equal(other(input_ids=ids).logits, want)


def test_contexts_closed_in_the_order_they_were_opened_leave_nothing_behind() -> None:
    models = [build("qwen3_5", seed=s) for s in (0, 1)]
    layouts = [describe(m) for m in models]
    ids = tokens(1, 6)
    with torch.no_grad():
        base = [m(input_ids=ids).logits for m in models]
        contexts = [Offsets(lay, _offsets(lay)) for lay in layouts]
        for c in contexts:
            c.__enter__()
        contexts[0].__exit__(None, None, None)
        assert torch.equal(models[0](input_ids=ids).logits, base[0])
        assert not torch.equal(models[1](input_ids=ids).logits, base[1])
        contexts[1].__exit__(None, None, None)
        assert torch.equal(models[1](input_ids=ids).logits, base[1])


def test_a_layer_whose_forward_was_replaced_is_an_error_not_a_silent_base_model() -> None:
    model = build("qwen3_5")
    layout = describe(model)
    layout.mixers[0].forward = lambda hidden_states, **kw: hidden_states  # type: ignore[method-assign]
    with (
        pytest.raises(S0Error, match=r"layer 0 .* ran without its kernel functions"),
        Offsets(layout, _offsets(layout)),
    ):
        model(input_ids=tokens(1, 6))


def test_a_family_without_kernel_functions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = describe(build("qwen3_5"))
    monkeypatch.delattr(sys.modules[type(layout.mixers[0]).__module__], "torch_chunk_gated_delta_rule")
    with pytest.raises(ArchitectureError, match="no kernel functions"), Offsets(layout, _offsets(layout)):
        pass


def test_packed_sequences_are_refused() -> None:
    model = build("qwen3_5")
    layout = describe(model)
    with pytest.raises(S0Error, match="packed"), Offsets(layout, _offsets(layout)):
        model(input_ids=tokens(1, 6), cu_seq_lens_q=torch.tensor([0, 3, 6]))


def test_pure_transformer_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="no recurrent layer"):
        method("state_offset").fit(context(model_of("qwen2")), sets(0))


def test_offsets_of_another_model_are_refused(tmp_path: Any) -> None:
    (adapter,) = method("state_offset", n_steps=1).fit(context(model_of("qwen3_5")), sets(0))
    adapter.save(tmp_path)
    with pytest.raises(ArchitectureError, match="mamba2"):
        method("state_offset").load(context(model_of("falcon_h1")), tmp_path)


def test_s0_training_reaches_models_whose_cache_argument_has_another_name() -> None:
    """Mamba-2 takes `cache_params` and would swallow `past_key_values` without a word."""
    model = build("mamba2")
    (result,) = fit_states(model, describe(model), [FitJob(sets(0)[0].examples, FitConfig(n_steps=2, lr=0.05))])
    assert result.grad_norms[0] > 0
    assert result.losses[1] < result.losses[0]


@pytest.mark.parametrize("name", ["qwen3_5", "falcon_h1"])
def test_attack_another_thread_calls_the_model_while_a_layer_runs(name: str) -> None:
    """A whole forward pass in another thread, between a layer's call here and its kernel: both have their offsets."""
    model = build(name)
    layout = describe(model)
    here, there = tokens(1, 9, seed=1), tokens(1, 14, seed=2)
    results: dict[str, Tensor] = {}
    me = threading.get_ident()

    def forward(ids: Tensor) -> Tensor:
        with torch.no_grad():
            return model(input_ids=ids).logits

    def interrupt(*_: Any) -> None:
        if threading.get_ident() == me and "there" not in results:
            other = threading.Thread(target=lambda: results.update(there=forward(there)))
            other.start()
            other.join()

    with Offsets(layout, _offsets(layout)):
        expected = forward(here), forward(there)
        first = next(m for m in layout.mixers[layout.layers[1]].modules() if isinstance(m, torch.nn.Linear))
        handle = first.register_forward_hook(interrupt)
        try:
            results["here"] = forward(here)
        finally:
            handle.remove()
    assert torch.equal(results["here"], expected[0])
    assert torch.equal(results["there"], expected[1])


def test_a_private_context_leaves_other_threads_alone() -> None:
    model = build("qwen3_5")
    layout = describe(model)
    ids = tokens(1, 9)

    def forward() -> Tensor:
        with torch.no_grad():
            return model(input_ids=ids).logits

    base = forward()
    results: list[Tensor] = []
    with Offsets(layout, _offsets(layout), private=True):
        other = threading.Thread(target=lambda: results.append(forward()))
        other.start()
        other.join()
        mine = forward()
    assert torch.equal(results[0], base)
    assert not torch.allclose(mine, base)


def test_training_within_the_context_of_another_model_of_the_family() -> None:
    """In a process whose first training this is: the training kernel must not come to lie over the offset's wrapper."""
    first, second = build("qwen3_5"), build("qwen3_5")
    module = sys.modules[type(describe(first).mixers[0]).__module__]
    kernel = module.torch_chunk_gated_delta_rule
    m = method("state_offset", n_steps=2, lr=0.01)
    (expected,) = m.fit(context(second), sets(0))
    ids = tokens(1, 7)
    try:
        module.torch_chunk_gated_delta_rule = inspect.unwrap(kernel)
        with Offsets(describe(first), _offsets(describe(first))), torch.no_grad():
            before = first(input_ids=ids).logits
            (adapter,) = m.fit(context(second), sets(0))
            after = first(input_ids=ids).logits
        assert hasattr(module.torch_chunk_gated_delta_rule, "s0_routed")
    finally:
        module.torch_chunk_gated_delta_rule = kernel
    assert torch.equal(before, after)
    assert adapter.curve.losses == expected.curve.losses
