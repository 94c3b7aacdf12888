"""Fused training against separate training, the published procedure, and finite differences."""

from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen3_5ForCausalLM

from s0.data import Example
from s0.errors import ConfigError, S0Error
from s0.state.families import describe
from s0.state.initial import InitialState
from s0.state.random_models import build
from s0.training.batches import PASS_TOKENS, make_batches, pack, truncate
from s0.training.fit import fit_states
from s0.training.jobs import FitConfig, FitJob

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from published_procedure import train_one_by_one


def relative(a: InitialState, b: InitialState) -> float:
    return max(float((a.tensors[i] - b.tensors[i]).norm() / b.tensors[i].norm()) for i in b.tensors)


def some_examples(seed: int, n: int, vocabulary: int) -> list[Example]:
    rng = random.Random(seed)
    draw = lambda low, high: [rng.randrange(1, vocabulary) for _ in range(rng.randint(low, high))]  # noqa: E731
    return [Example(str(k), draw(3, 30), draw(2, 20)) for k in range(n)]


@pytest.fixture(scope="module", params=["qwen3_5", "falcon_h1"])
def setting(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = build(request.param).eval()
    return model, describe(model)


def test_fused_equals_published_procedure(setting) -> None:  # type: ignore[no-untyped-def]
    """One example at a time, no padding, torch's Adam and clip, 20 steps: relative 1e-4 in fp32. The settings are chosen so that
    the order of sums matters little: where an entry's gradient is near zero, Adam turns rounding into steps of size lr."""
    model, layout = setting
    vocabulary = int(layout.text_config.vocab_size)
    jobs = [
        FitJob(some_examples(s, 4 + s, vocabulary), FitConfig(lr=lr, grad_clip=clip))
        for s, (lr, clip) in enumerate([(1e-3, 1.0), (3e-3, 1e-3), (1e-3, 0.0)])
    ]
    fused = fit_states(model, layout, jobs, token_budget=200, mix=True)
    for job, result in zip(jobs, fused, strict=True):
        c = job.config
        naive = train_one_by_one(model, layout, job.examples, c.n_steps, c.lr, c.l2_lambda, c.grad_clip or 1e9)
        assert relative(result.state, naive) < 1e-4
        assert len(result.losses) == c.n_steps


def test_fused_equals_separate(setting) -> None:  # type: ignore[no-untyped-def]
    model, layout = setting
    vocabulary = int(layout.text_config.vocab_size)
    jobs = [FitJob(some_examples(10 + s, 5, vocabulary), FitConfig(n_steps=8, lr=2e-3)) for s in range(4)]
    fused = fit_states(model, layout, jobs, token_budget=150, mix=True)
    for job, together in zip(jobs, fused, strict=True):
        (alone,) = fit_states(model, layout, [job])
        assert relative(together.state, alone.state) < 1e-5
        assert together.losses == pytest.approx(alone.losses, rel=1e-5)


def test_on_cpu_a_job_is_the_same_bytes_in_any_company(setting) -> None:  # type: ignore[no-untyped-def]
    """One seed alone, with others, in another order, with other settings beside it."""
    model, layout = setting
    vocabulary = int(layout.text_config.vocab_size)
    a, b, c = (
        FitJob(
            some_examples(20 + s, 5 + 3 * s, vocabulary), FitConfig(n_steps=6, lr=lr, alpha_inside=s == 1, alpha=0.5)
        )
        for s, lr in enumerate([2e-3, 1e-2, 1e-3])
    )
    (alone,) = fit_states(model, layout, [b], token_budget=150)
    for jobs in ([a, b, c], [c, b], [b, b, b, a]):
        together = fit_states(model, layout, jobs, token_budget=150)[jobs.index(b)]
        assert together.losses == alone.losses
        assert together.grad_norms == alone.grad_norms
        assert all(torch.equal(together.state.tensors[i], alone.state.tensors[i]) for i in alone.state.tensors)


@pytest.mark.parametrize(("layers", "heads", "width"), [(13, 4, 16), (25, 4, 16), (3, 8, 96)])
def test_bytes_of_deep_and_of_wide_states_depend_on_neither_company_nor_threads(
    layers: int, heads: int, width: int
) -> None:
    """Sums over more than four layers used to follow the number of jobs, sums over a layer of more than 2^15 numbers the
    number of threads. The clip is active, so that the norm reaches the states."""
    config = build("qwen3_5").config
    config.layer_types = ["linear_attention"] * (layers - 1) + ["full_attention"]
    config.num_hidden_layers = layers
    config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim = heads, width, width
    torch.manual_seed(0)
    model = Qwen3_5ForCausalLM(config).eval()
    layout = describe(model)
    job, *others = (FitJob(some_examples(s, 3, 90), FitConfig(n_steps=3, lr=1e-2, grad_clip=0.01)) for s in range(4))
    before = torch.get_num_threads()
    results = []
    try:
        for jobs, threads in (([job], 1), ([job], 3), ([job, *others], 1), ([*others, job], 2)):
            torch.set_num_threads(threads)
            results.append(fit_states(model, layout, jobs, token_budget=60)[jobs.index(job)])
    finally:
        torch.set_num_threads(before)
    for r in results[1:]:
        assert r.losses == results[0].losses
        assert r.grad_norms == results[0].grad_norms
        assert all(torch.equal(r.state.tensors[i], t) for i, t in results[0].state.tensors.items())


def test_recomputing_activations_changes_nothing(setting) -> None:  # type: ignore[no-untyped-def]
    model, layout = setting
    jobs = [FitJob(some_examples(3, 4, int(layout.text_config.vocab_size)), FitConfig(n_steps=4))]
    (plain,) = fit_states(model, layout, jobs)
    (saved,) = fit_states(model, layout, jobs, checkpointing=True)
    assert relative(saved.state, plain.state) < 1e-5


def test_training_leaves_the_model_bit_for_bit(setting) -> None:  # type: ignore[no-untyped-def]
    model, layout = setting
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fit_states(model, layout, [FitJob(some_examples(1, 2, 50), FitConfig(n_steps=2))])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.training


def test_resumed_training_equals_uninterrupted(setting) -> None:  # type: ignore[no-untyped-def]
    model, layout = setting
    jobs = [FitJob(some_examples(s, 3, 60), FitConfig(n_steps=6)) for s in range(2)]
    kept: dict[int, object] = {}

    def on_step(step: int, snapshot) -> None:  # type: ignore[no-untyped-def]
        if step == 3:
            import copy

            kept[step] = copy.deepcopy(snapshot())

    whole = fit_states(model, layout, jobs, on_step=on_step)
    resumed = fit_states(model, layout, jobs, resume=kept[3])  # type: ignore[arg-type]
    for a, b in zip(whole, resumed, strict=True):
        assert all(torch.equal(a.state.tensors[i], b.state.tensors[i]) for i in layout.layers)
        assert a.losses == b.losses


def test_layer_subset_learns_only_those_layers(setting) -> None:  # type: ignore[no-untyped-def]
    model, layout = setting
    first, last = layout.layers[0], layout.layers[-1]
    jobs = [
        FitJob(some_examples(0, 3, 60), FitConfig(n_steps=3, layers=(first,))),
        FitJob(some_examples(0, 3, 60), FitConfig(n_steps=3, layers=(last,))),
    ]
    a, b = fit_states(model, layout, jobs)
    assert set(a.state.tensors) == {first}
    assert set(b.state.tensors) == {last}
    (alone,) = fit_states(model, layout, jobs[:1])
    assert relative(a.state, alone.state) < 1e-5


def test_alpha_inside_scales_the_gradient(setting) -> None:  # type: ignore[no-untyped-def]
    model, layout = setting
    examples = some_examples(4, 3, 60)
    run = lambda alpha, inside: fit_states(  # noqa: E731
        model, layout, [FitJob(examples, FitConfig(n_steps=1, alpha=alpha, alpha_inside=inside))]
    )[0]
    assert run(0.5, True).grad_norms[0] == pytest.approx(0.5 * run(0.5, False).grad_norms[0], rel=1e-4)
    assert run(0.5, True).state.alpha == 0.5


def test_low_rank_state_has_that_rank(setting) -> None:  # type: ignore[no-untyped-def]
    model, layout = setting
    (r,) = fit_states(model, layout, [FitJob(some_examples(2, 3, 60), FitConfig(n_steps=4, rank=2, lr=0.05))])
    ranks = [int(torch.linalg.matrix_rank(head)) for t in r.state.tensors.values() for head in t]
    assert max(ranks) <= 2
    assert r.state.norms()[layout.layers[0]] > 0


def test_starting_state_is_where_training_starts(setting) -> None:  # type: ignore[no-untyped-def]
    model, layout = setting
    init = InitialState.random(layout, 1.0, 5)
    (r,) = fit_states(
        model, layout, [FitJob(some_examples(2, 3, 60), FitConfig(n_steps=1, lr=1e-9, l2_lambda=0.0), init)]
    )
    assert relative(r.state, init) < 1e-6


def test_packing_is_the_cheapest_there_is() -> None:
    """Against all ways to cut, for small sets; a row above the budget gets a batch of its own."""
    rng = random.Random(0)
    for _ in range(200):
        lengths = sorted(rng.choice([rng.randint(1, 60), rng.randint(1, 200)]) for _ in range(rng.randint(1, 8)))
        budget = rng.randint(20, 400)
        cost = lambda ends, n=lengths: sum(  # noqa: E731
            (b - a) * n[b - 1] + PASS_TOKENS for a, b in itertools.pairwise([0, *ends])
        )
        fits = lambda ends, n=lengths, most=budget: all(  # noqa: E731
            b - a == 1 or (b - a) * n[b - 1] <= most for a, b in itertools.pairwise([0, *ends])
        )
        inner = range(1, len(lengths))
        ways = [[*cuts, len(lengths)] for k in range(len(lengths)) for cuts in itertools.combinations(inner, k)]
        ends = pack(lengths, budget)
        assert fits(ends)
        assert cost(ends) == min(cost(w) for w in ways if fits(w))


@pytest.mark.parametrize("mix", [True, False])
def test_batches_hold_every_completion_token_once(mix: bool) -> None:
    jobs = [FitJob(some_examples(s, 7, 90), FitConfig()) for s in range(3)]
    batches = make_batches(jobs, torch.device("cpu"), token_budget=120, pad_id=0, mix=mix)
    tokens = sum(len(b.targets) for b in batches)
    assert tokens == sum(len(e.completion_ids) for j in jobs for e in j.examples)
    weight = torch.zeros(3)
    for b in batches:
        weight.index_add_(0, b.token_jobs, b.weights)
        assert b.ids.numel() <= 120 or b.ids.shape[0] == 1
        assert mix or len(b.jobs.unique()) == 1
    assert torch.allclose(weight, torch.ones(3))


def test_truncation_keeps_the_prompt() -> None:
    e = truncate(Example("a", [1, 2, 3], [4, 5, 6]), 5)
    assert (e.prompt_ids, e.completion_ids) == ([1, 2, 3], [4, 5])
    with pytest.raises(S0Error, match="max_length"):
        truncate(Example("a", [1, 2, 3], [4]), 3)


def test_contradictory_jobs_are_refused(setting) -> None:  # type: ignore[no-untyped-def]
    model, layout = setting
    e = some_examples(0, 1, 50)
    with pytest.raises(ConfigError, match="n_steps"):
        fit_states(model, layout, [FitJob(e, FitConfig(n_steps=1)), FitJob(e, FitConfig(n_steps=2))])
    with pytest.raises(ConfigError, match="layers"):
        fit_states(model, layout, [FitJob(e, FitConfig(layers=(99,)))])
    with pytest.raises(S0Error, match="no examples"):
        fit_states(model, layout, [FitJob([], FitConfig())])
