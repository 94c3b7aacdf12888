"""Statistics of seeds and problems. Each docstring says which question the function answers and what it assumes.

Degenerate inputs never raise a warning or an exception about numbers: the result is NaN (or p = 1 where two samples
are exactly the same constant) and `Test.note` says why. A wrong argument (k > n, a negative count) is a ValueError.

Array arguments have shape [..., n]; tests run along the last axis, so that thousands of simulated experiments are one
call. Results are floats for 1-d input and arrays of shape [...] otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: a sample whose spread is below this fraction of its magnitude is a constant written with rounding error
_CONSTANT = 1e-12


@dataclass(frozen=True)
class Test:
    """Result of a significance test. `p_value` is NaN where the question has no answer; `note` then says why."""

    __test__ = False  # the name is the field's standard; pytest must not collect it

    name: str
    statistic: Any
    p_value: Any
    df: Any = math.nan
    note: str = ""


@dataclass(frozen=True)
class MeanStd:
    """Mean and sample standard deviation (ddof 1) of `n` values; NaN mean for n = 0, NaN std for n < 2."""

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class Interval:
    """A confidence interval [low, high] for a mean; NaN bounds where there is none. `over`: what would be drawn again."""

    mean: float
    low: float
    high: float
    over: str
    level: float = 0.95

    def times(self, factor: float) -> Interval:
        """The same interval in other units (100: percentage points)."""
        return Interval(self.mean * factor, self.low * factor, self.high * factor, self.over, self.level)


@dataclass(frozen=True)
class Crossed:
    """Result of `crossed`: interval of the mean difference (units of the differences), two-sided p of no difference,
    and how many independent observations the differences are worth."""

    interval: Interval
    p_value: float
    n_effective: float


def _samples(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    return array.reshape(1) if array.ndim == 0 else array


def _moments(x: Array) -> tuple[Array, Array]:
    """Mean and ddof-1 variance along the last axis (n >= 2), the variance of a constant being exactly 0."""
    mean = x.mean(axis=-1)
    variance = x.var(axis=-1, ddof=1)
    constant = np.ptp(x, axis=-1) <= _CONSTANT * np.abs(x).max(axis=-1)
    return np.where(constant, x[..., 0], mean), np.where(constant, 0.0, variance)


def _scalar(value: Any) -> Any:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array


def _student(name: str, difference: ArrayLike, squared_error: ArrayLike, df: ArrayLike) -> Test:
    """Two-sided p of difference / sqrt(squared_error) under Student's t; see the module docstring for zero error."""
    from scipy import special

    difference, squared_error, df = (np.asarray(v, dtype=np.float64) for v in (difference, squared_error, df))
    defined = squared_error > 0
    t = np.where(defined, difference / np.sqrt(np.where(defined, squared_error, 1.0)), np.nan)
    p = np.where(defined, 2.0 * special.stdtr(np.where(defined, df, 1.0), -np.abs(np.where(defined, t, 0.0))), np.nan)
    p = np.where(~defined & (difference == 0), 1.0, p)
    note = "" if defined.all() else "zero variance: t is undefined (p = 1 where the means are equal, else nan)"
    return Test(name, _scalar(t), _scalar(p), _scalar(np.where(defined, df, np.nan)), note)


def _too_few(name: str, shape: tuple[int, ...], what: str) -> Test:
    nan = _scalar(np.full(shape, np.nan))
    return Test(name, nan, nan, nan, what)


def mean_std(values: ArrayLike) -> MeanStd:
    """How large is the average, and how much do runs differ? Describes the sample; assumes nothing."""
    x = _samples(values)
    if x.size == 0:
        return MeanStd(math.nan, math.nan, 0)
    if x.size == 1:
        return MeanStd(float(x[0]), math.nan, 1)
    mean, variance = _moments(x)
    return MeanStd(float(mean), float(np.sqrt(variance)), x.size)


def welch(a: ArrayLike, b: ArrayLike) -> Test:
    """Do two groups of independent runs differ in their mean? Welch's t-test, two-sided.

    Assumes: runs independent within and between groups, roughly normal; variances may differ. Runs that share one
    greedy baseline are *not* independent in it: that sample is one number repeated (variance 0), and the test then
    equals a one-sample test of `a` against that number. `paired_t` answers the paired question.
    Shapes [..., n_a] and [..., n_b]; n < 2 in either gives NaN.
    """
    x, y = _samples(a), _samples(b)
    if min(x.shape[-1], y.shape[-1]) < 2:
        shape = np.broadcast_shapes(x.shape[:-1], y.shape[:-1])
        return _too_few("welch", shape, "fewer than 2 runs in a group: no variance, no test")
    (mean_a, var_a), (mean_b, var_b) = _moments(x), _moments(y)
    return _welch(mean_a, var_a, x.shape[-1], mean_b, var_b, y.shape[-1])


def welch_from_stats(mean_a: float, std_a: float, n_a: int, mean_b: float, std_b: float, n_b: int) -> Test:
    """`welch` from published means, ddof-1 standard deviations and counts. Same question, same assumptions.

    Rounded inputs move p: a standard deviation printed with one decimal is good to a few per cent of itself.
    """
    if std_a < 0 or std_b < 0:
        raise ValueError(f"std_a={std_a}, std_b={std_b}: a standard deviation is not negative")
    if min(n_a, n_b) < 2 or any(math.isnan(v) for v in (mean_a, std_a, mean_b, std_b)):
        return _too_few("welch", (), "fewer than 2 runs in a group, or no published spread: no test")
    return _welch(mean_a, std_a**2, n_a, mean_b, std_b**2, n_b)


def _welch(mean_a: Any, var_a: Any, n_a: int, mean_b: Any, var_b: Any, n_b: int) -> Test:
    error_a, error_b = np.asarray(var_a) / n_a, np.asarray(var_b) / n_b
    total = error_a + error_b
    # Welch-Satterthwaite; both terms zero is caught by _student, so any positive divisor will do there
    divisor = error_a**2 / (n_a - 1) + error_b**2 / (n_b - 1)
    df = np.where(divisor > 0, total**2 / np.where(divisor > 0, divisor, 1.0), np.inf)
    return _student("welch", np.asarray(mean_a) - np.asarray(mean_b), total, df)


def one_sample_t(values: ArrayLike, mean: float = 0.0) -> Test:
    """Is the mean of independent runs different from a fixed number? One-sample t-test, two-sided.

    This is the honest test where every seed is compared with the same single greedy baseline. It generalises over
    seeds, not over problems. Assumes independent, roughly normal runs. n < 2 gives NaN.
    """
    x = _samples(values) - mean
    if x.shape[-1] < 2:
        return _too_few("one-sample t", x.shape[:-1], "fewer than 2 runs: no variance, no test")
    centre, variance = _moments(x)
    return _student("one-sample t", centre, variance / x.shape[-1], x.shape[-1] - 1)


def paired_t(a: ArrayLike, b: ArrayLike) -> Test:
    """Do two conditions measured on the same seeds differ? Paired t-test, two-sided, on the differences a - b.

    Assumes: a[i] and b[i] belong together, pairs independent, differences roughly normal. Raises ValueError when the
    shapes differ. n < 2 gives NaN; differences that are all zero give p = 1.
    """
    x, y = _samples(a), _samples(b)
    if x.shape != y.shape:
        raise ValueError(f"paired_t: shapes {x.shape} and {y.shape} differ: pairs need one value of each per seed")
    difference = x - y
    # rounding error of the subtraction is relative to the operands, not to the difference
    scale = np.maximum(np.abs(x), np.abs(y)).max(axis=-1, keepdims=True) if x.shape[-1] else np.zeros(())
    level = difference[..., :1]
    difference = np.where(np.abs(difference - level) <= _CONSTANT * scale, level, difference)
    difference = np.where(np.abs(difference) <= _CONSTANT * scale, 0.0, difference)
    result = one_sample_t(difference)
    return Test("paired t", result.statistic, result.p_value, result.df, result.note)


def sign_test(n_positive: ArrayLike, n: ArrayLike, alternative: str = "two-sided") -> Test:
    """Is one sign more common than the other? Exact binomial test of `n_positive` of `n` against 1/2.

    Drop ties before counting. Assumes independent items with the same chance of a positive sign. `alternative` is
    "two-sided" or "greater". Discrete, hence conservative: its true level is at most the nominal one. n = 0 gives NaN.
    """
    from scipy import special

    k, total = (np.asarray(v, dtype=np.int64) for v in (n_positive, n))
    if (k < 0).any() or (k > total).any():
        raise ValueError(f"sign_test: n_positive={n_positive!r}, n={n!r}: need 0 <= n_positive <= n")
    if alternative not in ("two-sided", "greater"):
        raise ValueError(f"sign_test: alternative={alternative!r}: must be 'two-sided' or 'greater'")
    # by symmetry P(X >= k) = P(X <= n - k)
    tail = np.float64(total - k if alternative == "greater" else np.minimum(k, total - k))
    p = special.bdtr(tail, np.maximum(total, 1), 0.5)
    p = p if alternative == "greater" else np.minimum(1.0, 2.0 * p)
    empty = total == 0
    note = "no items with a sign: no test" if np.any(empty) else ""
    return Test("sign test", _scalar(k), _scalar(np.where(empty, np.nan, p)), note=note)


def mcnemar(n_solved: ArrayLike, n_broken: ArrayLike) -> Test:
    """Did one run change more problems for the better than for the worse? Exact McNemar test over problems.

    `n_solved` counts fail -> pass, `n_broken` pass -> fail, of one tuned and one baseline evaluation on the same
    problems. Conditions on the discordant pairs (a sign test on them); assumes independent problems. It generalises
    over problems for this one seed, not over seeds. Conservative like every exact discrete test. No discordant pair
    gives p = 1: nothing changed.
    """
    solved, broken = (np.asarray(v, dtype=np.int64) for v in (n_solved, n_broken))
    if (solved < 0).any() or (broken < 0).any():
        raise ValueError(f"mcnemar: n_solved={n_solved!r}, n_broken={n_broken!r}: counts are not negative")
    total = solved + broken
    p = np.where(total == 0, 1.0, sign_test(solved, np.maximum(total, 1)).p_value)
    note = "no discordant problem" if np.any(total == 0) else ""
    return Test("exact mcnemar", _scalar(solved - broken), _scalar(p), note=note)


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> Any:
    """How likely is at least one of k samples to pass? Unbiased estimator 1 - C(n-c, k) / C(n, k) per problem.

    (Chen et al. 2021, arXiv 2107.03374.) `n` samples drawn, `c` of them passed; assumes samples of one problem are
    exchangeable. Average the result over problems. Raises ValueError for k < 1, k > n or c outside 0..n.
    """
    drawn, passed = np.broadcast_arrays(np.asarray(n, dtype=np.float64), np.asarray(c, dtype=np.float64))
    if k < 1 or (drawn < k).any():
        raise ValueError(
            f"pass_at_k: k={k} needs 1 <= k <= n, and the smallest n is {drawn.min():g}; draw more samples"
        )
    if (passed < 0).any() or (passed > drawn).any():
        raise ValueError("pass_at_k: c must lie in 0..n for every problem")
    miss = np.ones_like(drawn)
    for i in range(k):
        miss = miss * np.clip(drawn - passed - i, 0, None) / (drawn - i)
    return _scalar(1.0 - miss)


def hedges_g(a: ArrayLike, b: ArrayLike) -> float:
    """How large is a difference of group means in units of the run-to-run spread? Hedges' g, positive when a > b.

    Uses the root mean of the two variances (no equal-variance assumption) and the small-sample correction
    1 - 3 / (4 (n_a + n_b - 2) - 1). NaN for n < 2 or when both groups are constant. Where the baseline is one greedy
    evaluation repeated its variance is 0 by construction and g is inflated by up to sqrt(2).
    """
    x, y = _samples(a), _samples(b)
    if min(x.size, y.size) < 2:
        return math.nan
    (mean_a, var_a), (mean_b, var_b) = _moments(x), _moments(y)
    spread = math.sqrt((float(var_a) + float(var_b)) / 2)
    if spread == 0:
        return math.nan
    return float(mean_a - mean_b) / spread * (1 - 3 / (4 * (x.size + y.size - 2) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Which of a family of comparisons survive if the chance of *any* false alarm is to stay at the level?

    Holm's step-down adjusted p-values in the order given; valid under any dependence. NaN (no test) stays NaN and does
    not count towards the family.
    """
    p = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted = np.full(p.shape, np.nan)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * float(p[index])))
        adjusted[index] = running
    return [float(v) for v in adjusted]


def crossed(differences: ArrayLike, *, level: float = 0.95) -> Crossed:
    """Does the mean difference stand if the seeds *and* the problems were drawn again? Score test and interval.

    `differences` [seeds, problems] holds tuned minus baseline correctness (-1, 0, 1, or differences of c/n), the
    problems in the same order for every seed. Assumes seeds drawn alike, problems drawn alike and independent.

    Error of the mean: that of the problem means (`ep`, which holds problem effects shared by all seeds and the chance of
    single runs), plus what the seed means vary beyond the interaction, max(es - ee, 0): the components of a two-way
    layout without the negative part. Their t quantiles are averaged by weight (Cochran and Cox 1957, section 4.14).
    The variance is not taken at the estimate but under each hypothetical mean (score interval for paired proportions,
    Tango 1998), for an effective number of observations (Rao and Scott 1992): rare changes then have honest intervals,
    changes without spread have a p, and p < 1 - level exactly where the interval leaves 0 out. Where nothing changes, or
    everything one way, the interval is exact (Clopper and Pearson) for `problems` observations.

    One seed: over problems alone, and nothing is said of other seeds. Fewer than two problems: NaN.
    """
    from scipy import optimize, special

    x = np.asarray(differences, dtype=np.float64)
    if x.ndim != 2:
        raise ValueError(f"crossed: shape {x.shape}: need [seeds, problems]")
    if np.abs(x).max(initial=0) > 1:
        raise ValueError(f"crossed: {np.abs(x).max():g}: differences of correctness lie in [-1, 1]")
    n_seeds, n_problems = x.shape
    over = "problems" if n_seeds == 1 else "seeds x problems"
    if n_seeds == 0 or n_problems < 2:
        mean = float(x.mean()) if x.size else math.nan
        return Crossed(Interval(mean, math.nan, math.nan, over, level), math.nan, math.nan)
    mean, up, down = float(x.mean()), float(np.maximum(x, 0).mean()), float(np.maximum(-x, 0).mean())
    # the largest share of problems that can be otherwise when none of them was
    bound = 1 - ((1 - level) / 2) ** (1 / n_problems)
    if not x.any():
        return Crossed(Interval(0.0, -bound, bound, over, level), 1.0, float(n_problems))
    by_seed, by_problem = x.mean(axis=1), x.mean(axis=0)
    from_problems = float(by_problem.var(ddof=1)) / n_problems
    from_seeds = 0.0
    if n_seeds > 1:
        residual = x - by_seed[:, None] - by_problem + mean
        interaction = float((residual**2).sum()) / ((n_seeds - 1) * (n_problems - 1)) / x.size
        from_seeds = max(float(by_seed.var(ddof=1)) / n_seeds - interaction, 0.0)
    total, independent = from_seeds + from_problems, up + down - mean**2
    if min(total, independent) <= _CONSTANT:
        # every evaluation changed alike, or changes cancel in every seed and problem: the problems are what was seen
        n, share = float(n_problems), 0.0
    else:
        n, share = independent / total, from_seeds / total

    def quantile(p: float) -> float:
        """Two-sided critical value for p."""
        of_seeds = special.stdtrit(n_seeds - 1, p / 2) if share else 0.0
        return -float(share * of_seeds + (1 - share) * special.stdtrit(n_problems - 1, p / 2))

    def variance(mu: float) -> float:
        """Of one difference, were `mu` the mean: maximum likelihood of the down share given up - down = mu."""
        b, c = (2 - up + down) * mu - up - down, -down * mu * (1 - mu)
        share_down = (math.sqrt(max(b * b - 8 * c, 0.0)) - b) / 4
        return max(2 * share_down + mu * (1 - mu), 0.0)

    t = abs(mean) / math.sqrt(variance(0.0) / n)
    p = _p_of(t, quantile, 2 * special.stdtr(n_problems - 1, -t), 2 * special.stdtr(max(n_seeds - 1, 1), -t), share)
    if abs(mean) == 1:
        inner = mean * (1 - 2 * bound)
        return Crossed(Interval(mean, min(mean, inner), max(mean, inner), over, level), p, n)
    squared = quantile(1 - level) ** 2

    def excess(mu: float) -> float:
        return n * (mean - mu) ** 2 - squared * variance(mu)

    low, high = (float(optimize.brentq(excess, *sorted((end, mean)), xtol=1e-12)) for end in (-1.0, 1.0))
    return Crossed(Interval(mean, low, high, over, level), p, n)


def _p_of(t: float, quantile: Callable[[float], float], low: float, high: float, share: float) -> float:
    """The p whose critical value is `t`; it lies between those of the two components' degrees of freedom."""
    from scipy import optimize

    if share == 0 or t == 0 or low >= high:
        return float(low if share == 0 or t == 0 else high)
    ends = math.log(low) if low > 0 else -700.0, math.log(high)
    gaps = [quantile(math.exp(e)) - t for e in ends]
    if gaps[0] * gaps[1] >= 0:
        return float(high if abs(gaps[1]) <= abs(gaps[0]) else low)
    return math.exp(optimize.brentq(lambda e: quantile(math.exp(e)) - t, *ends, xtol=1e-12))


def mean_interval(values: ArrayLike, *, over: str, level: float = 0.95) -> Interval:
    """Where does the mean lie if these runs were drawn again? Student's interval for independent, roughly normal runs.

    `over` names what is drawn again. n < 2 gives NaN bounds; values without spread give a point.
    """
    from scipy import special

    x = _samples(values)
    if x.size < 2:
        return Interval(float(x[0]) if x.size else math.nan, math.nan, math.nan, over, level)
    mean, variance = (float(v) for v in _moments(x))
    half = -float(special.stdtrit(x.size - 1, (1 - level) / 2)) * math.sqrt(variance / x.size)
    return Interval(mean, mean - half, mean + half, over, level)
