"""Gates, persistence, probes and the alpha prediction on the embedded architectures (random weights) and on toy data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from s0.analysis.alpha import predict_alpha
from s0.analysis.persistence import fit_rate, kl_divergence, persistence
from s0.analysis.probe import N_FOLDS, probe, probe_auc, prompt_features
from s0.state.families import describe
from s0.state.gates import run_prompt, state_of, surviving_energy
from s0.state.initial import InitialState
from s0.tiny.models import build

PROMPTS = [[5, 9, 17, 30, 41, 8, 12, 77], [5, 9, 100, 4, 6], [5, 9, 17, 55, 60, 61, 62]]


@pytest.fixture(scope="module", params=["tiny_gdn", "tiny_mamba2"])
def loaded(request):
    model = build(request.param, seed=0).eval()
    return model, describe(model)


def test_gates_equal_the_decay_of_a_difference_of_states(loaded) -> None:
    """In the first layer the inputs do not depend on the state, so two starts differ at the end by the product of the
    gates (GatedDeltaNet: once nothing is erased, that is with keys of zero)."""
    model, layout = loaded
    first = layout.layers[0]
    mixer = layout.mixers[first]
    saved = {n: p.detach().clone() for n, p in mixer.named_parameters()}
    if layout.architecture == "gated_delta_net":
        with torch.no_grad():
            keys = slice(mixer.key_dim, 2 * mixer.key_dim)
            mixer.in_proj_qkv.weight[keys] = 0
    try:
        state = InitialState.random(layout, 2.0, seed=1, alpha=0.5)
        _, tuned, gates = run_prompt(model, layout, PROMPTS[0], state)
        _, zero, _ = run_prompt(model, layout, PROMPTS[0])
    finally:
        with torch.no_grad():
            for n, p in mixer.named_parameters():
                p.copy_(saved[n])
    decay = gates[first].sum(0).exp()[:, None, None]
    difference = state_of(tuned, first) - state_of(zero, first)
    assert torch.allclose(difference, decay * state.effective()[first], atol=1e-5)
    assert gates[first].shape == (len(PROMPTS[0]), state.tensors[first].shape[0])
    assert (gates[first] <= 0).all()


def test_energy_equals_the_naive_sum(loaded) -> None:
    model, layout = loaded
    state = InitialState.random(layout, 2.0, seed=1)
    _, _, gates = run_prompt(model, layout, PROMPTS[1])
    energy = surviving_energy(gates, state)
    for t in range(len(PROMPTS[1])):
        naive = 0.0
        for i, start in state.effective().items():
            for head in range(start.shape[0]):
                kept = math.exp(sum(float(gates[i][s, head]) for s in range(t + 1)))
                naive += float((kept * start[head]).pow(2).sum())
        assert float(energy[t]) == pytest.approx(naive, rel=1e-4)


def test_kl_equals_the_naive_sum() -> None:
    a, b = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).split(1)
    p, q = a.softmax(-1)[0], b.softmax(-1)[0]
    naive = sum(float(x * (x / y).log()) for x, y in zip(p, q, strict=True))
    assert float(kl_divergence(a, b)) == pytest.approx(naive, rel=1e-5)
    assert float(kl_divergence(a, a)) == 0.0


def test_fit_rate_recovers_an_exponential_above_the_floor() -> None:
    assert fit_rate([math.exp(-0.3 * t) for t in range(20)]) == pytest.approx(0.3)
    assert fit_rate([math.exp(-2.0 * t) for t in range(5)] + [0.0] * 50) == pytest.approx(2.0)
    assert math.isnan(fit_rate([1.0, 0.5]))
    assert math.isnan(fit_rate([0.0] * 9))


def test_persistence_values(loaded) -> None:
    model, layout = loaded
    values = persistence(model, layout, PROMPTS, InitialState.random(layout, 4.0, seed=2))
    assert values["ratio"][0] == 1.0
    assert values["counts"] == [3, 3, 3, 3, 3, 2, 2, 1]
    assert len(values["kl"]) == len(values["predicted"]) == 8
    assert values["predicted"][0] == 1.0
    assert values["predicted"] == sorted(values["predicted"], reverse=True)
    assert values["predicted_rate"] > 0


def test_persistence_of_no_state_has_no_rate(loaded) -> None:
    model, layout = loaded
    values = persistence(model, layout, PROMPTS, InitialState.random(layout, 1.0, seed=0, alpha=0.0))
    assert max(values["kl"]) < 1e-9
    assert values["rate"] is None or values["kl"][0] > 0


def test_alpha_prediction_does_not_depend_on_the_alpha_in_use(loaded) -> None:
    """The prediction is for the unscaled state; scaling the stored tensors by 2 halves it."""
    model, layout = loaded
    state = InitialState.random(layout, 1.0, seed=3, alpha=1e-3)
    doubled = state.replace(tensors={i: 2 * t for i, t in state.tensors.items()})
    one, two = predict_alpha(model, layout, PROMPTS, state), predict_alpha(model, layout, PROMPTS, doubled)
    assert one["alpha"] == pytest.approx(2 * two["alpha"], rel=1e-2)
    assert 0 < one["survival"] <= 1
    assert one["mean_log_decay"] < 0


def test_features_are_what_a_plain_forward_gives(loaded) -> None:
    model, layout = loaded
    features = prompt_features(model, layout, PROMPTS)
    for i in layout.layers:
        assert features["recurrent"][i].shape == (3, math.prod(layout.shapes[i]))
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([PROMPTS[1]]), output_hidden_states=True).hidden_states
        assert np.allclose(features["residual"][i][1], hidden[i + 1][0, -1].numpy(), atol=1e-5)


def test_probe_on_a_model_gives_plain_values(loaded) -> None:
    model, layout = loaded
    prompts = [[5, 9, 10 + i] for i in range(20)]
    values = probe(model, layout, prompts, [i % 2 == 0 for i in range(20)])
    assert set(values["recurrent"]) == set(values["residual"]) == {str(i) for i in layout.layers}
    assert values["n_solved"] == 10


def test_probe_finds_a_signal_and_none_in_noise() -> None:
    rng = np.random.default_rng(0)
    y = rng.random(200) < 0.5
    noise = rng.normal(size=(200, 300))
    signal = noise + 3.0 * y[:, None] * rng.normal(size=300)
    assert probe_auc(signal, y)[0] > 0.95
    scores = [probe_auc(rng.normal(size=(200, 300)), y, seed=s)[0] for s in range(10)]
    assert abs(np.mean(scores) - 0.5) < 0.05


def test_probe_equals_the_naive_folds() -> None:
    """By hand: everything that is fit sees the training fold only."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    rng = np.random.default_rng(1)
    y = rng.random(100) < 0.4
    x = rng.normal(size=(100, 80)) + 0.5 * y[:, None]
    scores = []
    for train, test in StratifiedKFold(N_FOLDS, shuffle=True, random_state=0).split(x, y):
        mean = x[train].mean(0)
        _, _, directions = np.linalg.svd(x[train] - mean, full_matrices=False)
        project = directions[:64].T
        a, b = (x[train] - mean) @ project, (x[test] - mean) @ project
        scale = a.std(0)
        model = LogisticRegression(max_iter=2000).fit((a - a.mean(0)) / scale, y[train])
        scores.append(roc_auc_score(y[test], model.decision_function((b - a.mean(0)) / scale)))
    assert probe_auc(x, y)[0] == pytest.approx(np.mean(scores), abs=1e-6)


@pytest.mark.parametrize("n_positive", [0, 4, 96, 100])
def test_probe_with_too_few_of_a_class_gives_no_answer(n_positive: int) -> None:
    y = np.arange(100) < n_positive
    assert math.isnan(probe_auc(np.random.default_rng(0).normal(size=(100, 8)), y)[0])


def test_probe_on_constant_features_is_chance() -> None:
    assert probe_auc(np.ones((50, 8)), np.arange(50) % 2 == 0)[0] == 0.5
