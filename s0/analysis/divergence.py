"""Where a newly solved problem's completion leaves the base model's: at its first character, or later?

Paper, section on mechanism and Figure 4. Needs records alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

from s0 import stats
from s0.storage.records import Record


@dataclass(frozen=True)
class Flip:
    """One FAIL -> PASS flip: first differing character, and that position divided by the tuned completion's length."""

    problem_id: str
    seed: int
    position: int
    relative: float


@dataclass(frozen=True)
class Divergence:
    """Summary over flips. Relative positions are fractions of the tuned completion in [0, 1].

    `sign_p` (one-sided, exact) asks whether divergence lies in the first half of the completion more often than by
    chance. Seeds repeat problems, so it counts problems, not flips: each once, with its mean relative position.
    """

    n_flips: int
    n_at_zero: int
    other_positions: tuple[int, ...]
    mean_relative: float
    median_relative: float
    n_problems: int
    n_problems_first_half: int
    sign_p: float


def first_difference(a: str, b: str) -> int | None:
    """Index of the first character at which two texts differ (the shorter's length if it is a prefix); None if equal."""
    if a == b:
        return None
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def flips(records: Sequence[Record]) -> list[Flip]:
    """Every FAIL -> PASS flip of the finished records, in order. A flip between equal texts (a verdict that changed by
    itself, for example a timeout) has no position and is left out."""
    found = []
    for record in records:
        if record.baseline is None or record.tuned is None:
            continue
        before = {o.problem_id: o for o in record.baseline.outcomes}
        after = {o.problem_id: o for o in record.tuned.outcomes}
        for problem in record.flips()[0]:
            position = first_difference(before[problem].completion, after[problem].completion)
            if position is not None:
                length = max(len(after[problem].completion), 1)
                found.append(Flip(problem, record.seed, position, min(position / length, 1.0)))
    return found


def summarise(found: Sequence[Flip]) -> Divergence:
    """See `Divergence`. No flips give zeros and NaN."""
    nan = float("nan")
    if not found:
        return Divergence(0, 0, (), nan, nan, 0, 0, nan)
    by_problem: dict[str, list[float]] = defaultdict(list)
    for flip in found:
        by_problem[flip.problem_id].append(flip.relative)
    means = [mean(v) for v in by_problem.values()]
    ties = sum(m == 0.5 for m in means)
    first = sum(m < 0.5 for m in means)
    return Divergence(
        len(found),
        sum(f.position == 0 for f in found),
        tuple(sorted(f.position for f in found if f.position > 0)),
        mean(f.relative for f in found),
        median(f.relative for f in found),
        len(means),
        first,
        stats.sign_test(first, len(means) - ties, alternative="greater").p_value,
    )


def cdf(found: Sequence[Flip]) -> tuple[list[float], list[float]]:
    """Empirical distribution of relative positions: sorted values and the fraction of flips at or below each."""
    values = sorted(f.relative for f in found)
    return values, [(i + 1) / len(values) for i in range(len(values))]
