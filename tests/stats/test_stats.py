"""Each statistic against an independent reference, on degenerate input, and under simulated nulls."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import scipy.stats

from s0 import stats

N_NULLS = 2000
LEVEL, TOLERANCE = 0.05, 0.015


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def rate(p: np.ndarray) -> float:
    assert p.shape == (N_NULLS,)
    return float((p < LEVEL).mean())


def test_welch_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=7), rng.normal(1, 3, size=11)
    reference = scipy.stats.ttest_ind(a, b, equal_var=False)
    result = stats.welch(a, b)
    assert result.p_value == pytest.approx(reference.pvalue, rel=1e-10)
    assert result.statistic == pytest.approx(reference.statistic)
    summary = stats.welch_from_stats(a.mean(), a.std(ddof=1), 7, b.mean(), b.std(ddof=1), 11)
    assert summary.p_value == pytest.approx(reference.pvalue, rel=1e-10)


def test_paired_and_one_sample_equal_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=9), rng.normal(size=9)
    assert stats.paired_t(a, b).p_value == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, rel=1e-10)
    assert stats.one_sample_t(a, 0.3).p_value == pytest.approx(scipy.stats.ttest_1samp(a, 0.3).pvalue, rel=1e-10)


def test_welch_against_one_repeated_baseline_is_the_one_sample_test() -> None:
    tuned = [0.71, 0.74, 0.70, 0.73]
    assert stats.welch(tuned, [0.488] * 4).p_value == pytest.approx(stats.one_sample_t(tuned, 0.488).p_value)
    assert stats.paired_t(tuned, [0.488] * 4).p_value == pytest.approx(stats.one_sample_t(tuned, 0.488).p_value)


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_sign_test_and_mcnemar_equal_scipy_binomtest(n: int) -> None:
    for k in range(n + 1):
        both = scipy.stats.binomtest(k, n).pvalue
        assert stats.sign_test(k, n).p_value == pytest.approx(both)
        assert stats.mcnemar(k, n - k).p_value == pytest.approx(both)
        upper = scipy.stats.binomtest(k, n, alternative="greater").pvalue
        assert stats.sign_test(k, n, alternative="greater").p_value == pytest.approx(upper)


def test_pass_at_k_equals_enumeration() -> None:
    n, c = 7, 3
    for k in range(1, n + 1):
        subsets = list(itertools.combinations(range(n), k))
        expected = sum(any(i < c for i in s) for s in subsets) / len(subsets)
        assert stats.pass_at_k(n, c, k) == pytest.approx(expected)
    assert np.allclose(stats.pass_at_k([10, 10], [0, 10], 5), [0, 1])


def test_pass_at_k_refuses_more_than_was_drawn() -> None:
    with pytest.raises(ValueError, match="draw more samples"):
        stats.pass_at_k(10, 3, 11)


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.6, 0.9]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_holm_does_not_count_missing_tests() -> None:
    adjusted = stats.holm([0.02, math.nan, 0.5])
    assert adjusted[0] == pytest.approx(0.04)
    assert math.isnan(adjusted[1])


def test_hedges_g() -> None:
    assert stats.hedges_g([1, 3], [0, 0]) == pytest.approx(2 / 1 * (1 - 3 / 7))
    assert math.isnan(stats.hedges_g([1, 1], [0, 0]))


@pytest.mark.parametrize("value", [0.0, 41 / 84, 1.0, 1e-9])
def test_constant_samples_give_one_or_nan(value: float) -> None:
    """41/84 repeated has a floating-point variance of about 1e-33; it must count as none."""
    same, other = [value] * 10, [value + 0.25] * 10
    assert stats.welch(same, same).p_value == 1.0
    assert stats.paired_t(same, same).p_value == 1.0
    assert math.isnan(stats.welch(other, same).p_value)
    assert math.isnan(stats.paired_t(other, same).p_value)
    assert "zero variance" in stats.welch(other, same).note


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_runs_give_nan(n: int) -> None:
    few, enough = [0.5] * n, [0.4, 0.6]
    assert math.isnan(stats.welch(few, enough).p_value)
    assert math.isnan(stats.paired_t(few, few).p_value)
    assert math.isnan(stats.one_sample_t(few).p_value)
    assert math.isnan(stats.mean_std(few).std)
    assert math.isnan(stats.mean_interval(few, over="seeds").low)
    assert math.isnan(stats.welch_from_stats(1, 0.1, n, 2, 0.1, 10).p_value)


def test_empty_counts() -> None:
    assert math.isnan(stats.sign_test(0, 0).p_value)
    assert stats.mcnemar(0, 0).p_value == 1.0
    assert math.isnan(stats.crossed(np.zeros((0, 5))).interval.low)
    assert math.isnan(stats.crossed(np.zeros((3, 0))).interval.mean)


def test_nothing_changed_is_exact_and_no_point() -> None:
    """0 of 84 problems changed: up to 1 - 0.025^(1/84) = 4.3 % of all problems may (Clopper and Pearson)."""
    found = stats.crossed(np.zeros((4, 84)))
    upper = scipy.stats.binomtest(0, 84).proportion_ci(method="exact").high
    assert (found.interval.low, found.interval.high) == pytest.approx((-upper, upper))
    assert found.p_value == 1.0


@pytest.mark.parametrize("n_seeds", [1, 3])
@pytest.mark.parametrize("value", [1.0, -1.0])
def test_everything_changed_alike_has_a_p_and_an_interval(n_seeds: int, value: float) -> None:
    found = stats.crossed(np.full((n_seeds, 84), value))
    assert found.p_value < 1e-10
    assert found.interval.high - found.interval.low > 0.05
    assert value in (found.interval.low, found.interval.high)


def test_one_seed_of_flips_is_the_score_form_of_mcnemar() -> None:
    x = np.zeros((1, 84))
    x[0, :9], x[0, 9:12] = 1, -1
    found = stats.crossed(x)
    assert found.n_effective == pytest.approx(83)
    expected = 2 * scipy.stats.t.sf(6 / math.sqrt(12) * math.sqrt(83 / 84), 83)
    assert found.p_value == pytest.approx(expected)
    assert found.interval.over == "problems"


def test_crossed_interval_is_tangos_score_interval() -> None:
    """Tango 1998: the limits solve (d - mu)^2 n = z^2 (2 q + mu (1 - mu)); checked by searching the limits on a grid."""
    x = np.zeros((1, 60))
    x[0, :7], x[0, 7:9] = 1, -1
    found = stats.crossed(x)
    q21 = np.linspace(1e-9, 1, 20_001)
    squared = scipy.stats.t.isf(0.025, 59) ** 2
    for limit in (found.interval.low, found.interval.high):
        q12 = q21 + limit
        ok = (q12 > 0) & (q12 + q21 < 1)
        likelihood = 7 * np.log(q12[ok]) + 2 * np.log(q21[ok]) + 51 * np.log(1 - q12[ok] - q21[ok])
        best = q21[ok][np.argmax(likelihood)]
        assert 59 * (5 / 60 - limit) ** 2 == pytest.approx(squared * (2 * best + limit - limit**2), rel=1e-3)


def test_p_and_interval_agree_and_depend_on_no_order() -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        x = rng.choice([-1.0, 0.0, 1.0], p=[0.03, 0.9, 0.07], size=(rng.integers(1, 6), rng.integers(2, 60)))
        found = stats.crossed(x)
        if 0 < abs(found.interval.mean) < 1:
            assert (found.p_value < 0.05) == (found.interval.low > 0 or found.interval.high < 0)
        assert found.interval.low <= found.interval.mean <= found.interval.high
        assert stats.crossed(-x).p_value == pytest.approx(found.p_value, rel=1e-6)


def test_degenerate_crossed_layouts() -> None:
    half = stats.crossed(np.array([[1.0] * 9, [0.0] * 9]))
    assert half.interval.low < 0 < half.interval.high, "two seeds that disagree say nothing"
    assert stats.crossed(np.array([[1.0, -1.0], [-1.0, 1.0]])).p_value == 1.0
    assert math.isnan(stats.crossed(np.ones((3, 1))).p_value)
    with pytest.raises(ValueError, match=r"need \[seeds, problems\]"):
        stats.crossed(np.zeros(4))
    with pytest.raises(ValueError, match=r"lie in \[-1, 1\]"):
        stats.crossed(np.full((2, 3), 100.0))


def test_mean_interval_equals_scipy() -> None:
    x = np.random.default_rng(5).normal(size=8)
    low, high = scipy.stats.t.interval(0.95, 7, x.mean(), scipy.stats.sem(x))
    found = stats.mean_interval(x, over="seeds")
    assert (found.low, found.high) == pytest.approx((low, high))


# --- under the null -------------------------------------------------------------------------------------------------


def test_null_welch() -> None:
    rng = np.random.default_rng(10)
    p = stats.welch(rng.normal(0, 1, (N_NULLS, 10)), rng.normal(0, 3, (N_NULLS, 7))).p_value
    assert abs(rate(p) - LEVEL) <= TOLERANCE


def test_null_paired_t() -> None:
    rng = np.random.default_rng(11)
    shared = rng.normal(0, 5, (N_NULLS, 10))
    p = stats.paired_t(shared + rng.normal(size=(N_NULLS, 10)), shared + rng.normal(size=(N_NULLS, 10))).p_value
    assert abs(rate(p) - LEVEL) <= TOLERANCE


def test_null_sign_test() -> None:
    """n = 17 is a size at which the exact test's true level (0.049) lies near the nominal one."""
    k = np.random.default_rng(12).binomial(17, 0.5, N_NULLS)
    assert abs(rate(stats.sign_test(k, 17).p_value) - LEVEL) <= TOLERANCE


def test_null_mcnemar() -> None:
    """1,319 problems (GSM8K's number), a fifth of them discordant."""
    rng = np.random.default_rng(13)
    discordant = rng.binomial(1319, 0.2, N_NULLS)
    solved = rng.binomial(discordant, 0.5)
    assert abs(rate(stats.mcnemar(solved, discordant - solved).p_value) - LEVEL) <= TOLERANCE


@pytest.mark.parametrize("n", [5, 20, 27, 84])
def test_null_exact_tests_never_exceed_their_level(n: int) -> None:
    k = np.arange(n + 1)
    level = scipy.stats.binom.pmf(k, n, 0.5)[stats.sign_test(k, n).p_value < LEVEL].sum()
    assert level <= LEVEL


@pytest.mark.parametrize(("seed_std", "problem_std", "noise_std"), [(0.3, 3.0, 1.0), (1.0, 3.0, 1.0), (1.0, 0.3, 1.0)])
def test_null_crossed_effects(seed_std: float, problem_std: float, noise_std: float) -> None:
    """Every seed shifts all problems, every problem has its own shift in all seeds; scaled into [-1, 1]."""
    rng = np.random.default_rng(15)
    false = 0
    for _ in range(N_NULLS):
        x = rng.normal(0, seed_std, (10, 1)) + rng.normal(0, problem_std, (1, 40)) + rng.normal(0, noise_std, (10, 40))
        false += stats.crossed(np.clip(x / 20, -1, 1)).p_value < LEVEL
    assert abs(false / N_NULLS - LEVEL) <= TOLERANCE
