"""Injection: batched equals unbatched, caches continue, pads are harmless or refused, nothing is left behind."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from transformers import DynamicCache

from s0.errors import ArchitectureError, S0Error
from s0.state.cache import S0Cache, TrainingCache, is_fresh, rows_of, seed_cache
from s0.state.families import describe
from s0.state.initial import InitialState
from s0.state.inject import Injection, self_test
from s0.state.pads import exact_pads
from s0.state.random_models import build

GDN, MAMBA2 = "qwen3_5", "falcon_h1 (gated norm, biases, time-step floor)"
LENGTHS = (1, 2, 3, 4, 5, 7, 8, 9, 11, 13, 16, 17, 19, 23, 29, 33)


@pytest.fixture(scope="module", params=[GDN, "qwen3_5 (multimodal wrapper)", "falcon_h1", MAMBA2])
def both(request):
    model = build(request.param)
    return model, describe(model)


@pytest.fixture(scope="module")
def gdn():
    model = build(GDN)
    return model, describe(model)


def _prompts():
    g = torch.Generator().manual_seed(1)
    return [torch.randint(2, 90, (n,), generator=g) for n in LENGTHS]


def _pad(prompts, left=True):
    width = max(map(len, prompts))
    ids, mask = torch.zeros(len(prompts), width, dtype=torch.long), torch.zeros(len(prompts), width, dtype=torch.long)
    for r, p in enumerate(prompts):
        at = slice(width - len(p), width) if left else slice(0, len(p))
        ids[r, at], mask[r, at] = p, 1
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def _random(layout, seed=0, norm=4.0):
    return InitialState.random(layout, norm, seed=seed)


@torch.no_grad()
def _logits(model, layout, state, ids, **kw):
    with Injection(model, layout, state):
        return model(input_ids=ids, **kw).logits


def _compare(model, layout, states, new_tokens):
    """16 prompts in one left-padded batch against one by one: logits to 1e-4, greedy tokens equal."""
    prompts = _prompts()
    ids, mask, positions = _pad(prompts)
    together = _logits(model, layout, states, ids, attention_mask=mask, position_ids=positions)
    options = {"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad(), Injection(model, layout, states):
        tokens = model.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :]
    for r, p in enumerate(prompts):
        state = states[r] if isinstance(states, list) else states
        alone = _logits(model, layout, state, p[None])
        assert float((together[r, -len(p) :] - alone[0]).abs().max()) < 1e-4, (r, len(p))
        with torch.no_grad(), Injection(model, layout, state):
            expected = model.generate(p[None], attention_mask=torch.ones_like(p[None]), **options)[0, len(p) :]
        assert tokens[r].tolist() == expected.tolist(), (r, len(p))


def test_batched_equals_unbatched_for_16_prompts(both):
    _compare(*both, _random(both[1]), new_tokens=64)


def test_16_rows_with_16_states_equal_16_runs(both):
    _compare(*both, [_random(both[1], seed) for seed in range(16)], new_tokens=8)


@torch.no_grad()
def test_naive_loop_without_generate_or_hooks(both):
    """The plainest form there is, one token at a time through an S0Cache, gives the tokens of `generate`."""
    model, layout = both
    prompt, state = _prompts()[8], _random(layout)
    cache, ids, found = S0Cache(layout, rows_of(layout, [state])), prompt[None], []
    for _ in range(12):
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
        ids = logits[:, -1:].argmax(-1)
        found.append(int(ids))
    with Injection(model, layout, state):
        out = model.generate(
            prompt[None], attention_mask=torch.ones_like(prompt[None]), max_new_tokens=12, do_sample=False
        )
    assert out[0, len(prompt) :].tolist() == found


@torch.no_grad()
def test_a_state_put_in_by_hand_into_the_recurrence():
    """Against mathematics, not against ourselves: one GatedDeltaNet layer, S_t = a S_{t-1} (I - b k k') + b v k'."""
    from transformers.models.qwen3_5.modeling_qwen3_5 import torch_chunk_gated_delta_rule as chunk

    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 5, 2, 8, generator=g) for _ in range(2))
    v, s = torch.randn(1, 5, 2, 12, generator=g), torch.randn(1, 2, 8, 12, generator=g)
    decay, beta = -torch.rand(1, 5, 2, generator=g), torch.rand(1, 5, 2, generator=g)
    out, last = chunk(
        q, k, v, g=decay, beta=beta, initial_state=s, output_final_state=True, use_qk_l2norm_in_kernel=True
    )
    unit = lambda x: x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()  # noqa: E731
    q, k, state = unit(q) / 8**0.5, unit(k), s
    for t in range(5):
        state = state * decay[:, t].exp()[..., None, None]
        write = (v[:, t] - torch.einsum("bhk,bhkv->bhv", k[:, t], state)) * beta[:, t, :, None]
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], write)
        assert torch.allclose(out[:, t], torch.einsum("bhk,bhkv->bhv", q[:, t], state), atol=1e-5)
    assert torch.allclose(last, state, atol=1e-5)


# -- caches -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_cache_of_the_user_is_seeded_once_and_continues(both):
    model, layout = both
    ids, state = _prompts()[-1][None], _random(layout)
    full = _logits(model, layout, state, ids)
    cache = DynamicCache(config=model.config)
    assert is_fresh(cache, layout)
    with Injection(model, layout, state):
        parts = [
            model(input_ids=ids[:, a:b], past_key_values=cache, use_cache=True).logits
            for a, b in ((0, 9), (9, 10), (10, 33))
        ]
    assert not is_fresh(cache, layout)
    assert float((torch.cat(parts, 1) - full).abs().max()) < 1e-4


@torch.no_grad()
def test_a_conversation_keeps_its_history_when_continued(both):
    """The second turn starts from the first turn's state, not from S0 again."""
    model, layout = both
    first, second, state = _prompts()[9], _prompts()[10], _random(layout)
    options = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True}
    with Injection(model, layout, state):
        turn = model.generate(first[None], attention_mask=torch.ones_like(first[None]), **options)
        longer = torch.cat([turn.sequences, second[None]], 1)
        mask = torch.ones_like(longer)
        continued = model.generate(longer, attention_mask=mask, past_key_values=turn.past_key_values, **options)
        afresh = model.generate(longer, attention_mask=mask, **options)
    assert continued.sequences.tolist() == afresh.sequences.tolist()


@torch.no_grad()
def test_reset_returns_to_the_state(both):
    model, layout = both
    ids, state = _prompts()[7][None], _random(layout)
    cache = S0Cache(layout, rows_of(layout, [state]))
    once = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
    cache.reset()
    again = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
    assert torch.allclose(once, again, atol=1e-5)


@torch.no_grad()
def test_decoding_does_not_write_into_the_state(both):
    """One-token kernels update in place: neither the tensors given nor the InitialState may change."""
    model, layout = both
    state = _random(layout)
    kept = {i: t.clone() for i, t in state.tensors.items()}
    rows = rows_of(layout, [state])
    given = {i: t.clone() for i, t in rows.items()}
    cache = S0Cache(layout, rows)
    for token in (5, 6, 7):
        model(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True)
    with Injection(model, layout, state):
        for token in (5, 6, 7):
            model(input_ids=torch.tensor([[token]]))
    assert all(torch.equal(rows[i], given[i]) and torch.equal(state.tensors[i], kept[i]) for i in kept)


@torch.no_grad()
def test_a_chunked_prefill_of_a_padded_batch_is_exact(both):
    """The first chunk may consist of pads only in some rows."""
    model, layout = both
    prompts, state = _prompts()[2:9:3], _random(layout)
    ids, mask, positions = _pad(prompts)
    full = _logits(model, layout, state, ids, attention_mask=mask, position_ids=positions)
    cache = S0Cache(layout, rows_of(layout, [state] * len(prompts)))
    parts = []
    with Injection(model, layout, state):
        for a, b in ((0, 5), (5, ids.shape[1])):
            options = {"attention_mask": mask[:, :b], "position_ids": positions[:, a:b], "use_cache": True}
            parts.append(model(input_ids=ids[:, a:b], past_key_values=cache, **options).logits)
    joined = torch.cat(parts, 1)
    for r, p in enumerate(prompts):
        assert float((joined[r, -len(p) :] - full[r, -len(p) :]).abs().max()) < 1e-4


# -- pads -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_legacy_padding_fades_the_state(both):
    """What the published batched runs did: measurably different from exact, with a state as without padding equal."""
    model, layout = both
    prompts, state = _prompts()[:12:4], _random(layout)
    ids, mask, positions = _pad(prompts)
    exact = _logits(model, layout, state, ids, attention_mask=mask, position_ids=positions)
    with Injection(model, layout, state, padding="legacy"):
        legacy = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    assert float((legacy[0, -1] - exact[0, -1]).abs().max()) > 1e-2
    assert torch.allclose(legacy[-1], exact[-1], atol=1e-4)  # the longest prompt has no pads


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [GDN, MAMBA2])
def test_closed_gates_survive_half_precision(name, dtype):
    """What closes a gate must be representable: padded equals unpadded up to the rounding of the dtype."""
    model = build(name).to(dtype)
    layout = describe(model)
    prompts, state = _prompts()[:12:4], _random(layout)
    ids, mask, positions = _pad(prompts)
    together = _logits(model, layout, state, ids, attention_mask=mask, position_ids=positions)
    assert torch.isfinite(together).all()
    for r, p in enumerate(prompts):
        alone = _logits(model, layout, state, p[None])[0]
        assert float((together[r, -len(p) :] - alone).float().abs().max()) < 0.05


def test_pads_between_tokens_raise(both):
    model, layout = both
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 8]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1]])
    with pytest.raises(S0Error, match="row 1: pads between tokens"):
        _logits(model, layout, _random(layout), ids, attention_mask=mask)


@torch.no_grad()
def test_left_pads_in_a_continuation_raise(both):
    model, layout = both
    ids = torch.tensor([[5, 6, 7, 8]])
    with Injection(model, layout, _random(layout)):
        cache = model(input_ids=ids, use_cache=True).past_key_values
        with pytest.raises(S0Error, match="pads between tokens"):
            model(
                input_ids=ids,
                attention_mask=torch.tensor([[1] * 4 + [0, 0, 1, 1]]),
                past_key_values=cache,
                use_cache=True,
            )


@torch.no_grad()
def test_right_pads_are_exact_but_do_not_continue(both):
    model, layout = both
    prompts, state = _prompts()[3:10:3], _random(layout)
    ids, mask, positions = _pad(prompts, left=False)
    with Injection(model, layout, state):
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
        for r, p in enumerate(prompts):
            alone = model(input_ids=p[None]).logits[0]
            assert float((out.logits[r, : len(p)] - alone).abs().max()) < 1e-4
        with pytest.raises(S0Error, match="pad on the left"):
            model(input_ids=ids[:, :1], past_key_values=out.past_key_values, use_cache=True)


@torch.no_grad()
def test_generate_on_a_right_padded_batch_raises_instead_of_answering_wrongly(both):
    model, layout = both
    ids, mask, _ = _pad(_prompts()[2:5], left=False)
    with Injection(model, layout, _random(layout)), pytest.raises(S0Error, match="pad on the left"):
        model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0)


def test_more_pads_than_fp32_can_undo_raise():
    """A time-step floor decays the state at pads; beyond the range of fp32 that is refused, not approximated."""
    model = build(MAMBA2)
    layout = describe(model)
    ids = torch.full((1, 9000), 5)
    mask = torch.zeros_like(ids)
    mask[:, -2:] = 1
    with pytest.raises(S0Error, match="left pads in one row decay"):
        _logits(model, layout, _random(layout), ids, attention_mask=mask)


def test_a_model_that_cannot_pad_exactly_raises(gdn):
    import dataclasses

    model, layout = gdn
    refusing = dataclasses.replace(layout, padding_refused="because of a test")
    ids, mask, _ = _pad(_prompts()[:3])
    with pytest.raises(S0Error, match="because of a test"):
        _logits(model, refusing, _random(layout), ids, attention_mask=mask)
    _logits(model, refusing, _random(layout), ids, attention_mask=torch.ones_like(ids))
    with torch.no_grad(), Injection(model, refusing, _random(layout), padding="legacy"):
        model(input_ids=ids, attention_mask=mask)


# -- what is left behind ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_nothing_is_left_after_the_context_even_after_an_error(both):
    model, layout = both
    ids = _prompts()[8][None]
    before = model(input_ids=ids).logits
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    with pytest.raises(S0Error), Injection(model, layout, _random(layout)):
        model(input_ids=ids.expand(2, -1), attention_mask=torch.tensor([[1, 0] + [1] * 9, [1] * 11]))
    with exact_pads(layout):
        pass
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks
    assert torch.equal(model(input_ids=ids).logits, before)


@torch.no_grad()
def test_injection_nests_inside_inference_mode_and_no_cache(both):
    model, layout = both
    ids, state = _prompts()[8][None], _random(layout)
    expected = _logits(model, layout, state, ids)
    with torch.inference_mode():
        assert torch.allclose(_logits(model, layout, state, ids, use_cache=False), expected, atol=1e-5)


# -- training cache ---------------------------------------------------------------------------------------------------


def test_gradient_of_a_padded_batch_equals_the_rows_alone(both):
    """Left pads under exact_pads, each row its own state: gradients as if every row were trained alone."""
    model, layout = both
    prompts = _prompts()[4:10:2]
    ids, mask, positions = _pad(prompts)
    states = [_random(layout, seed) for seed in range(len(prompts))]

    def loss(logits, targets):
        return torch.nn.functional.cross_entropy(logits[:-1], targets[1:])

    rows = {i: t.requires_grad_() for i, t in rows_of(layout, states).items()}
    with exact_pads(layout):
        cache = TrainingCache(layout, rows)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache).logits
    sum(loss(logits[r, -len(p) :], p) for r, p in enumerate(prompts)).backward()
    for r, p in enumerate(prompts):
        alone = {i: t.requires_grad_() for i, t in rows_of(layout, [states[r]]).items()}
        loss(model(input_ids=p[None], past_key_values=TrainingCache(layout, alone)).logits[0], p).backward()
        for i, t in alone.items():
            scale = float(t.grad.norm())
            assert scale > 0
            assert float((rows[i].grad[r] - t.grad[0]).norm()) < 1e-3 * scale + 1e-7


def test_training_mode_reaches_the_state(both):
    """Some mixers take a fused path without initial state in train() unless a cache is passed."""
    model, layout = both
    rows = {i: t.requires_grad_() for i, t in rows_of(layout, [_random(layout)]).items()}
    model.train()
    try:
        model(input_ids=_prompts()[8][None], past_key_values=TrainingCache(layout, rows)).logits.logsumexp(
            -1
        ).sum().backward()
    finally:
        model.eval()
    assert all(bool(t.grad.any()) for t in rows.values())


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_states_that_do_not_fit_are_refused_before_anything_runs(gdn):
    model, layout = gdn
    other = describe(build("falcon_h1"))
    with pytest.raises(ArchitectureError, match="mamba2"):
        Injection(model, layout, _random(other))
    with pytest.raises(ArchitectureError, match="mamba2"):
        Injection(model, layout, [None, _random(other)])


def test_number_of_states_must_divide_the_batch(gdn):
    model, layout = gdn
    with pytest.raises(S0Error, match="2 states for a batch of 3"):
        _logits(model, layout, [_random(layout), None], torch.full((3, 4), 5))


def test_a_cache_without_recurrent_layers_is_refused(gdn):
    _, layout = gdn
    with pytest.raises(ArchitectureError, match="holds no recurrent state"):
        seed_cache(DynamicCache(), layout, rows_of(layout, [_random(layout)]))


def test_self_test_measures_and_notices(both):
    model, layout = both
    assert self_test(model, layout, _random(layout)) > 1e-3
    with pytest.raises(S0Error, match="changes no logit"):
        self_test(model, layout, InitialState.zeros(layout))
    with pytest.raises(S0Error, match="changes no logit"):
        self_test(model, layout, _random(layout).replace(alpha=0.0))


def test_a_state_that_does_not_reach_the_model_is_an_error(gdn, monkeypatch):
    """A transformers version whose mixers no longer ask the cache must not pass for a method that does not help."""
    model, layout = gdn
    monkeypatch.setattr(S0Cache, "get_recurrent_state", lambda self, layer_idx, state_idx=0: None)
    with pytest.raises(S0Error, match="does not reach the model"):
        self_test(model, layout, _random(layout))


@torch.no_grad()
def test_a_copy_of_a_model_keeps_its_state_and_a_pickle_says_detach(both):
    model, layout = both
    ids, mask, positions = _pad(_prompts()[:3])
    call = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    with Injection(model, layout, _random(layout)):
        copied, expected = copy.deepcopy(model), model(**call).logits
        with pytest.raises(S0Error, match="detach it"):
            pickle.dumps(model)
    assert torch.equal(copied(**call).logits, expected)


@torch.no_grad()
def test_an_offloaded_model_starts_from_the_state(gdn, tmp_path):
    """Weights on the meta device until a layer runs, as device_map="auto" leaves them where the GPU is too small."""
    accelerate = pytest.importorskip("accelerate")
    model, layout = gdn
    ids, state = _prompts()[8][None], _random(layout)
    expected = _logits(model, layout, state, ids)
    moved = accelerate.disk_offload(build(GDN), str(tmp_path), execution_device=torch.device("cpu"))
    assert torch.equal(_logits(moved, describe(moved), state, ids), expected)
