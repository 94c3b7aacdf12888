"""Statistics of the substitution experiments that s0.stats lacks; scipy's and statsmodels' where they have them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as _scipy

from s0.stats import Interval, Test


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's interval for a proportion; NaN bounds for n = 0."""
    if not 0 <= successes <= n:
        raise ValueError(f"successes={successes}: must be between 0 and n={n}")
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), "events", level)
    found = _scipy.binomtest(successes, n).proportion_ci(level, "wilson")
    return Interval(successes / n, float(found.low), float(found.high), "events", level)


def cluster_bootstrap(
    values: ArrayLike, clusters: Sequence[Hashable], n_resamples: int = 5000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Percentile interval of the mean when values within a cluster (feature, passage) are not independent: whole clusters
    are drawn with replacement. NaN bounds for fewer than two clusters."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) != len(clusters):
        raise ValueError(f"{len(x)} values and {len(clusters)} cluster names; give one per value")
    _, which = np.unique(np.asarray([str(c) for c in clusters]), return_inverse=True)
    n = int(which.max()) + 1 if len(x) else 0
    mean = float(x.mean()) if len(x) else float("nan")
    if n < 2:
        return Interval(mean, float("nan"), float("nan"), "clusters", level)
    sums, sizes = np.bincount(which, x, n), np.bincount(which, minlength=n)
    drawn = np.random.default_rng(seed).integers(0, n, (n_resamples, n))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), "clusters", level)


def wilcoxon(a: ArrayLike, b: ArrayLike) -> Test:
    """Paired Wilcoxon signed-rank test, two-sided; p = 1 where all pairs are equal."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if len(x) == 0 or not (x != y).any():
        return Test("wilcoxon", 0.0, 1.0 if len(x) else float("nan"), note="no pair differs")
    found = _scipy.wilcoxon(x, y)
    return Test("wilcoxon", float(found.statistic), float(found.pvalue))


def mann_whitney(a: ArrayLike, b: ArrayLike) -> Test:
    """Mann-Whitney U of two independent samples, two-sided; NaN p where one is empty."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not len(x) or not len(y):
        return Test("mann_whitney", float("nan"), float("nan"), note="an empty sample")
    found = _scipy.mannwhitneyu(x, y, alternative="two-sided")
    return Test("mann_whitney", float(found.statistic), float(found.pvalue))


def cliffs_delta(a: ArrayLike, b: ArrayLike) -> float:
    """P(a > b) - P(a < b) over all pairs, from Mann-Whitney's U; NaN where one is empty."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not len(x) or not len(y):
        return float("nan")
    return float(2 * _scipy.mannwhitneyu(x, y).statistic / (len(x) * len(y)) - 1)
