"""The batched engine against `model.generate`, and its promise that a row does not feel its batch mates."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from s0.engines import make_engine
from s0.engines.base import TOP, Request, choose_tokens, request_seed, uniforms
from s0.engines.hf import HFEngine, _Loop
from s0.engines.naive import NaiveEngine
from s0.errors import ConfigError
from s0.state.families import describe
from s0.state.initial import InitialState
from s0.state.random_models import build

FAMILIES = ["qwen3_5", "falcon_h1"]


class Spelling:
    """Tokens spelled as numbers; token 7 ends a turn."""

    eos_token_id = 7

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(map(str, ids))


@pytest.fixture(scope="module", params=FAMILIES)
def setting(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = build(request.param).eval()
    layout = describe(model)
    states = {k: InitialState.random(layout, 3.0, k) for k in range(4)}
    rng = random.Random(1)
    vocabulary = int(layout.text_config.vocab_size)
    prompts = [tuple(rng.randrange(8, vocabulary) for _ in range(rng.choice([1, 3, 9, 9, 30]))) for _ in range(9)]
    requests = [
        Request(
            ids,
            rng.randint(4, 40),
            rng.choice([None, 0, 1, 2, 3]),
            rng.choice([0.0, 0.7, 1.3]),
            rng.choice([0.95, 1.0]),
            request_seed(n, k),
        )
        for n, ids in enumerate(prompts)
        for k in range(4)
    ]
    return model, states, requests


def test_batched_equals_one_by_one(setting) -> None:  # type: ignore[no-untyped-def]
    model, states, requests = setting
    naive = NaiveEngine().all(model, Spelling(), requests, states)
    batched = HFEngine(max_slots=16).all(model, Spelling(), requests, states)
    assert batched == naive
    assert {g.finish for g in naive} == {"stop", "length"} or len({len(g.token_ids) for g in naive}) > 3


def test_row_is_independent_of_its_batch_mates(setting) -> None:  # type: ignore[no-untyped-def]
    model, states, requests = setting
    whole = HFEngine(max_slots=64).all(model, Spelling(), requests, states)
    backwards = HFEngine(max_slots=32).all(model, Spelling(), requests[::-1], states)[::-1]
    alone = [HFEngine().all(model, Spelling(), [r], states)[0] for r in requests[:6]]
    assert backwards == whole
    assert alone == whole[:6]


def logits_by_row(monkeypatch: pytest.MonkeyPatch, model, requests, states, **settings):  # type: ignore[no-untyped-def]
    """(request, token number) -> the logits [vocab] it was drawn from; and what the engine noted."""
    seen: dict[tuple[int, int], torch.Tensor] = {}
    real = _Loop._tokens

    def watching(self, attached, slot, at):  # type: ignore[no-untyped-def]
        for request, s, t in zip(attached.tolist(), slot.tolist(), at.tolist(), strict=True):
            seen[request, t] = self.logits[s].clone()
        return real(self, attached, slot, at)

    engine = HFEngine(**settings)
    with monkeypatch.context() as patch:
        patch.setattr(_Loop, "_tokens", watching)
        engine.all(model, Spelling(), requests, states)
    return seen, engine.notes


def test_logits_of_a_row_are_bit_equal_in_any_batch(setting, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """The reason rows of different seeds may share a batch, and samples a row: from prefill to the last token, the bits
    are the same with every other set of mates, shared or not."""
    model, states, requests = setting
    whole, _ = logits_by_row(monkeypatch, model, requests, states)
    n = len(requests)
    for order, settings in (
        (range(n), {"share": False}),
        (range(n)[::-1], {"max_slots": 32}),
        ([3, 17, 30], {}),
        *(([k], {}) for k in range(0, n, 7)),
    ):
        part, _ = logits_by_row(monkeypatch, model, [requests[i] for i in order], states, **settings)
        assert {i for i, _ in part} == set(range(len(order)))
        for (i, t), logits in part.items():
            assert torch.equal(logits, whole[order[i], t]), (order, settings, i, t)


@pytest.mark.parametrize("family", ["olmo_hybrid", "bamba", "zamba2", "mamba2"])
def test_other_families_are_bit_equal_in_any_batch_and_with_any_threads_around(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads around a batch of 128 rows and around one of 8: how many share a step must not follow from its size."""
    torch.manual_seed(0)
    model = build(family).eval()
    states = {0: InitialState.random(describe(model), 3.0, 0)}
    rng = random.Random(2)
    requests = [
        Request(tuple(rng.randrange(8, 100) for _ in range(rng.choice([1, 9, 70]))), 24, (0, None)[k % 2], 1.0, 1.0, k)
        for k in range(80)
    ]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        whole, notes = logits_by_row(monkeypatch, model, requests, states)
        part, _ = logits_by_row(monkeypatch, model, requests[:5], states)
    finally:
        torch.set_num_threads(before)
    assert notes["slots"] == 128
    assert all(torch.equal(logits, whole[key]) for key, logits in part.items())


def samples(n: int, prompt: tuple[int, ...], temperature: float, tokens: int = 12) -> list[Request]:
    return [Request(prompt, tokens, None, temperature, 1.0, request_seed(prompt, k)) for k in range(n)]


def test_samples_share_a_row_until_they_differ(setting) -> None:  # type: ignore[no-untyped-def]
    model, _, _ = setting
    requests = samples(40, (11, 12, 13), 0.3) + samples(5, (11, 12, 14), 1.5, tokens=30)
    shared, apart = HFEngine(), HFEngine(share=False)
    found = shared.all(model, Spelling(), requests)
    assert found == apart.all(model, Spelling(), requests)
    assert len({tuple(g.token_ids) for g in found}) > 5
    # a row is decoded once for every distinct beginning, and ends are not decoded further
    distinct = {(r.prompt_ids, *g.token_ids[:n]) for r, g in zip(requests, found, strict=True) for n in range(1, 30)}
    ends = {(r.prompt_ids, *g.token_ids) for r, g in zip(requests, found, strict=True)}
    assert len(distinct - ends) <= shared.notes["rows_decoded"] <= len(distinct)
    assert shared.notes["rows_decoded"] < apart.notes["rows_decoded"]


def test_samples_that_need_more_rows_than_expected_start_again(setting) -> None:  # type: ignore[no-untyped-def]
    """The first prompt's samples agree, so the second prompt's are all attached; they all differ."""
    model, _, _ = setting
    requests = samples(60, (11,), 0.01) + samples(40, (11, 12), 1.5)
    engine = HFEngine(max_slots=8)
    found = engine.all(model, Spelling(), requests)
    assert engine.notes["started_again"] > 0
    assert found == HFEngine(share=False).all(model, Spelling(), requests)


def test_threads_are_given_back(setting) -> None:  # type: ignore[no-untyped-def]
    """A small model decodes on one thread; what runs between two results has all of them."""
    model, states, requests = setting
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert {torch.get_num_threads() for _ in HFEngine().run(model, Spelling(), requests, states)} == {2}
    finally:
        torch.set_num_threads(before)


def test_stop_strings_end_a_row_and_are_cut(setting) -> None:  # type: ignore[no-untyped-def]
    model, _, requests = setting
    (free,) = HFEngine().all(model, Spelling(), [Request(requests[0].prompt_ids, 20)])
    word = f" {free.token_ids[4]}"
    (cut,) = HFEngine().all(model, Spelling(), [Request(requests[0].prompt_ids, 20)], {}, [word])
    assert cut.finish == "stop"
    assert word not in cut.text
    assert free.text.startswith(cut.text)


def test_out_of_memory_halves_the_batch_and_loses_nothing(setting, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """The allocation failure is raised where CUDA raises it; everything else is the real loop."""

    model, states, requests = setting
    expected = HFEngine(max_slots=16).all(model, Spelling(), requests, states)
    from s0.engines import step

    real, failures = step.Step.__call__, iter([True])

    def failing(self, tokens):  # type: ignore[no-untyped-def]
        if tokens.shape[0] > 16 and next(failures, False):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(self, tokens)

    monkeypatch.setattr(step.Step, "__call__", failing)
    engine = HFEngine(max_slots=32)
    assert engine.all(model, Spelling(), requests, states) == expected
    assert engine.notes["backed_off_to"] == 16


def test_memory_budget_limits_slots(setting) -> None:  # type: ignore[no-untyped-def]
    model, _, _ = setting
    layout = describe(model)
    from s0.engines.slots import row_bytes

    need = row_bytes(model, layout, 64)
    engine = HFEngine(max_slots=256, memory_gb=40 * need / 1e9)
    assert engine.slots_for(model, layout, 1000, 64, 256) == 32
    with pytest.raises(ConfigError, match="memory_gb"):
        HFEngine(memory_gb=0.5 * need / 1e9).slots_for(model, layout, 10, 64, 256)


def test_sampling_follows_the_nucleus() -> None:
    """Frequencies of many draws against the probabilities of the top-p set, computed by hand."""
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    n = 20000
    u = torch.from_numpy(uniforms(3, n))
    drawn = choose_tokens(logits.expand(n, -1), u, torch.ones(n), torch.full((n,), 0.9))
    counts = np.bincount(drawn.numpy(), minlength=4) / n
    expected = np.array([0.5, 0.3, 0.15, 0.0]) / 0.95
    assert np.abs(counts - expected).max() < 0.015
    assert counts[3] == 0


def test_equal_logits_are_drawn_alike_beside_a_wide_nucleus() -> None:
    """Which of several equal logits comes first differs between topk and sort; a mate that needs the sort must not matter."""
    g = torch.Generator().manual_seed(0)
    row = torch.randint(0, 4, (4 * TOP,), generator=g).float() * 4  # values repeat, and few of them hold the mass
    row[: 2 * TOP] = -100.0
    row[7 * TOP // 2 :] += 20.0
    u, one = torch.tensor([0.37], dtype=torch.float64), torch.ones(1)
    top_p = torch.full((1,), 0.9)
    alone = choose_tokens(row[None], u, one, top_p)
    beside = choose_tokens(torch.stack([row, torch.zeros(4 * TOP)]), u.expand(2), one.expand(2), top_p.expand(2))
    assert int(beside[0]) == int(alone)


def test_wide_nucleus_falls_back_to_a_full_sort() -> None:
    n = 4 * TOP
    u = torch.tensor([0.999999], dtype=torch.float64)
    token = choose_tokens(torch.zeros(1, n), u, torch.ones(1), torch.ones(1))
    assert 0 <= int(token) < n
    drawn = choose_tokens(
        torch.zeros(1, n).expand(4000, -1), torch.from_numpy(uniforms(1, 4000)), torch.ones(4000), torch.ones(4000)
    )
    assert len(set(drawn.tolist())) > TOP  # a truncated candidate list could not reach beyond TOP


def test_uniforms_do_not_depend_on_length_or_start() -> None:
    assert np.array_equal(uniforms(5, 64, 128), uniforms(5, 192)[128:])
    assert np.array_equal(uniforms(5, 10), uniforms(5, 100)[:10])
    assert not np.array_equal(uniforms(5, 10), uniforms(6, 10))


@pytest.mark.parametrize(
    "bad", [{"prompt_ids": ()}, {"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_bad_requests_are_refused(bad: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError):
        Request(**{"prompt_ids": (1,), "max_new_tokens": 4, **bad})


def test_unknown_state_is_refused(setting) -> None:  # type: ignore[no-untyped-def]
    model, states, _ = setting
    with pytest.raises(ConfigError, match="unknown"):
        HFEngine().all(model, Spelling(), [Request((1, 2), 3, "nobody")], states)


def test_unknown_engine_lists_the_names() -> None:
    with pytest.raises(ConfigError, match="hf, naive"):
        make_engine("vlm")
