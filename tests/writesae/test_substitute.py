"""Substitution and closed form on a small model: the null is exactly nothing, a perfect atom too, an empty one is deletion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from s0.errors import ConfigError
from s0.state.families import describe
from s0.state.random_models import build
from s0.writesae.capture import Site, capture, capture_states
from s0.writesae.closed_form import measured, predictions, r_squared
from s0.writesae.dictionaries import DictionaryConfig, WriteSAE
from s0.writesae.statistics import cliffs_delta, cluster_bootstrap, mann_whitney, wilcoxon, wilson
from s0.writesae.substitute import Firings, choose_firings, effects, replacements, summary

SITE = Site(0, 1)


@pytest.fixture(scope="module", params=["qwen3_5", "falcon_h1"])
def scene(request: pytest.FixtureRequest) -> Any:
    model = build(request.param).requires_grad_(False)
    layout = describe(model)
    g = torch.Generator().manual_seed(0)
    sequences = [torch.randint(2, 90, (14 + i,), generator=g).tolist() for i in range(6)]
    writes = capture(model, layout, SITE, sequences, rows=4)
    firings = choose_firings(writes, 6, seed=1)
    # a random Mamba-2 model hardly feels one write: a hundred times it, or rounding would be compared
    size = 1.0 if layout.family.recurrence.erases else 100.0
    return model, layout, sequences, writes, replace(firings, u=size * firings.u)


def _perfect(firings: Firings) -> WriteSAE:
    n, dk = firings.k.shape
    sae = WriteSAE(DictionaryConfig(dk, firings.u.shape[1], n_features=n, k=1))
    with torch.no_grad():
        for t, x in ((sae.P, firings.k), (sae.Pe, firings.k), (sae.R, firings.u), (sae.Re, firings.u)):
            t.copy_(torch.nn.functional.normalize(x, dim=1)[:, None])
    return sae.eval()


def test_null_and_perfect_atom_change_nothing_and_deletion_does(scene: Any) -> None:
    model, layout, sequences, _, firings = scene
    conditions = replacements(_perfect(firings), firings, seed=0)
    kl = effects(model, layout, SITE, sequences, firings, conditions, window=4, rows=4)
    assert float(kl["null"].max()) == 0.0
    assert float(kl["delete"].min()) > 1e-8
    # k is normalised to within 1e-6, so the perfect atom's coefficient is the write's norm
    assert float((kl["atom"] / kl["delete"]).max()) < 1e-4
    assert float((kl["atom_norm"] / kl["delete"]).max()) < 1e-4
    values = summary(kl)
    assert values["n"] == 6
    assert values["conditions"]["atom"]["win"] == 1.0
    assert values["conditions"]["random_direction"]["win"] < 1.0


def test_an_empty_atom_is_deletion_and_batches_do_not_matter(scene: Any) -> None:
    model, layout, sequences, _, firings = scene
    sae = _perfect(firings)
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    conditions = replacements(sae, firings, seed=0)
    kl = effects(model, layout, SITE, sequences, firings, conditions, window=2, rows=6)
    np.testing.assert_array_equal(kl["atom"], kl["delete"])
    again = effects(model, layout, SITE, sequences, firings, {"delete": []}, window=2, rows=2)
    np.testing.assert_allclose(again["delete"], kl["delete"], atol=1e-6, rtol=1e-3)


def test_closed_form_is_first_order(scene: Any) -> None:
    """|measured - predicted| falls with the square of the size; without the Jacobian the prediction is worthless."""
    model, layout, sequences, _, firings = scene
    ids = torch.zeros(6, max(map(len, sequences)), dtype=torch.long)
    for row, i in enumerate(firings.sequence):
        ids[row, : len(sequences[i])] = torch.tensor(sequences[i])
    g = torch.Generator().manual_seed(2)
    p, r = torch.randn(firings.k.shape, generator=g), torch.randn(firings.u.shape, generator=g)
    p, r = (x * y.norm(dim=1, keepdim=True) / x.norm(dim=1, keepdim=True) for x, y in ((p, firings.k), (r, firings.u)))
    terms, token = predictions(model, layout, SITE, ids, firings, p, r, horizon=1)
    errors = []
    for size in (2e-2, 1e-2):  # of the write
        found = measured(model, layout, SITE, ids, firings, size * p, r, 1, token)
        rounding = 5e-6
        errors.append(max(0.0, float((found - size * terms["exact"]).abs().max()) - rounding) / size**2)
        assert r_squared(size * terms["exact"], found) > 0.99
        assert r_squared(size * terms["equation_1"], found) < 0.9
    assert errors[1] <= 3 * errors[0]


def test_states_are_the_sum_of_decayed_writes(scene: Any) -> None:
    """A bilinear code of a state is the leaky sum of the codes of writes."""
    model, layout, sequences, writes, _ = scene
    states, owners = capture_states(model, layout, SITE, sequences, per_sequence=40, seed=0)
    assert len(states) == sum(map(len, sequences))
    g = torch.Generator().manual_seed(3)
    p, r = torch.randn(states.shape[1], generator=g), torch.randn(states.shape[2], generator=g)
    one = writes.of(torch.tensor([0]))
    leaky, want = 0.0, []
    for t in range(len(one)):
        leaky = float(one.g[t].exp()) * leaky + float((p @ one.k[t]) * (r @ one.u[t]))
        want.append(leaky)
    got = torch.einsum("nkv,k,v->n", states[owners == 0], p, r).sort().values
    torch.testing.assert_close(got, torch.tensor(want).sort().values, rtol=1e-4, atol=1e-5)


def test_validation_sequences_hold_no_training_row(scene: Any) -> None:
    _, _, _, writes, _ = scene
    a, b = writes.of(torch.tensor([0, 2, 4])), writes.of(torch.tensor([1, 3, 5]))
    assert not set(a.sequence.tolist()) & set(b.sequence.tolist())
    assert len(a) + len(b) == len(writes)


def test_sites(scene: Any) -> None:
    _, layout, *_ = scene
    assert str(Site.parse("2.1")) == "2.1"
    for text, words in (("2", "LAYER.HEAD"), ("99.0", "not recurrent"), ("0.77", "heads 0")):
        with pytest.raises(ConfigError, match=words):
            Site.parse(text).check(layout)


def test_statistics_against_known_values() -> None:
    found = wilson(9, 10)
    assert (found.low, found.high) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert cliffs_delta([1, 2, 3], [0, 0]) == 1.0
    assert cliffs_delta([1, 2], [1, 2]) == 0.0
    assert wilcoxon([1, 2], [1, 2]).p_value == 1.0
    assert mann_whitney([], [1]).note
    same = cluster_bootstrap([1, 1, 0, 0], ["a", "a", "b", "b"])
    assert (same.low, same.high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="one per value"):
        cluster_bootstrap([1], [])
