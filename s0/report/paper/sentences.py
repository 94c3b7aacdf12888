"""Sentences of the paper whose wording depends on what was measured.

No verb is fixed beforehand: each sentence takes its direction from an interval (over seeds and problems for a cell, over
seeds for a quantity measured inside the model) and says "no difference" or "no clear change" where that holds both signs.
Sentences are plain text; the builder escapes them for LaTeX.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from s0 import stats
from s0.report.aggregate import Row
from s0.report.formats import number, spread
from s0.report.paper.context import NOT_RUN
from s0.stats import Interval, MeanStd


def seed_interval(value: MeanStd, level: float = 0.95) -> Interval:
    """Student's interval of a mean over seeds; NaN bounds for fewer than two or an unknown spread."""
    from scipy import special

    if value.n < 2 or math.isnan(value.std):
        return Interval(value.mean, math.nan, math.nan, "seeds", level)
    half = float(special.stdtrit(value.n - 1, 0.5 + level / 2)) * value.std / math.sqrt(value.n)
    return Interval(value.mean, value.mean - half, value.mean + half, "seeds", level)


def direction(interval: Interval) -> int | None:
    """+1 or -1 where the interval lies on one side of zero, 0 where it holds zero, None where there is no interval."""
    if math.isnan(interval.low) or math.isnan(interval.high):
        return None
    return 1 if interval.low > 0 else -1 if interval.high < 0 else 0


def interval_text(interval: Interval) -> str:
    return f"95 % interval {number(interval.low, sign=True)} to {number(interval.high, sign=True)}"


def effect(name: str, delta: MeanStd, interval: Interval, *, shown: bool = True) -> str:
    """`S0 raises it by 23.6 ± 1.7 pp`, `lowers`, `shows no difference`; a delta without an interval gets no verb. The
    interval follows where `shown`."""
    which = direction(interval)
    if which is None:
        return f"{name} {spread(delta, sign=True)} pp, without an interval"
    tail = [interval_text(interval)] if shown else []
    if which == 0:
        return f"{name} shows no difference ({', '.join([f'{spread(delta, sign=True)} pp', *tail])})"
    size = spread(MeanStd(abs(delta.mean), delta.std, delta.n))
    verb = "raises" if which > 0 else "lowers"
    return f"{name} {verb} it by {size} pp" + (f" ({tail[0]})" if tail else "")


def cell(name: str, row: Row | None) -> str:
    """`effect` of one cell of records, by its interval over seeds and problems."""
    if row is None:
        return f"{name} {NOT_RUN}"
    if not row.delta.n:
        return f"{name} without a result ({row.status_text or NOT_RUN})"
    return effect(name, row.delta, row.interval)


def control_sentence(row: Row | None) -> str:
    """Whether a random state of the same norm does anything, over seeds."""
    if row is None or not row.control.n:
        return f"Random-state control: {NOT_RUN}."
    which = direction(seed_interval(row.control))
    verdict = {1: "it helps", -1: "it harms", 0: "no difference", None: "one seed, no test"}[which]
    return f"A random state of the same norm changes accuracy by {spread(row.control, sign=True)} pp: {verdict} over seeds."


def decay(name: str, ratios: Sequence[float]) -> str:
    """Does the state's effect fade along the prompt? `ratios`: KL at the prompt's end over that at position 0, per seed.

    Decided by Student's interval of the log ratio over seeds, so that a factor up and a factor down weigh the same.
    """
    percent = stats.mean_std([100 * r for r in ratios])
    if not ratios:
        return f"{name}: {NOT_RUN}."
    logs = [math.log(max(r, 1e-300)) for r in ratios]
    which = direction(seed_interval(stats.mean_std(logs)))
    verdict = {
        1: "the state's effect grows along the prompt",
        -1: "the state's effect fades along the prompt",
        0: "no clear change along the prompt over seeds",
        None: "one seed, no test",
    }[which]
    return f"{name}: {spread(percent, 2)} % of that at position 0: {verdict}."


def published_decay(percent: float) -> str:
    """The published end ratio has no spread: the sentence follows its value alone."""
    verdict = "the state fades" if percent < 100 else "the state grows" if percent > 100 else "nothing changes"
    return f"Published: {number(percent, 2)} % of that at position 0: {verdict} while the prompt is read."


def negative_control(name: str, deltas: Sequence[float]) -> str:
    """Prefix tuning without recurrent state, over its configurations: called a negative control only if all lose."""
    if not deltas:
        return f"{name}: {NOT_RUN}."
    lost, won = sum(d < 0 for d in deltas), sum(d > 0 for d in deltas)
    mean = spread(stats.mean_std(deltas), sign=True)
    counted = f"{lost} of {len(deltas)} configurations lose accuracy and {won} gain, {mean} pp in the mean"
    verdict = "a negative control" if lost == len(deltas) else "no negative control here"
    return f"{name}: {counted}: {verdict}."


def published_prefix(delta: float, n: int) -> str:
    verb = "lost" if delta < 0 else "gained" if delta > 0 else "changed"
    return (
        f"Published: prefix tuning on a model without recurrent state {verb} {number(abs(delta))} pp "
        f"in the mean of {n} configurations."
    )


def probe_order(name: str, recurrent: Sequence[float], residual: Sequence[float]) -> str:
    """Which source predicts better, paired by seed; `published` single figures are compared by value."""
    if not recurrent or len(recurrent) != len(residual):
        return f"{name}: {NOT_RUN}."
    first, second = (spread(stats.mean_std(v), 2) for v in (recurrent, residual))
    scores = f"AUC {first} from the recurrent state, {second} from the residual stream"
    which = direction(seed_interval(stats.mean_std([a - b for a, b in zip(recurrent, residual, strict=True)])))
    if which is None:
        which_text = "no test: one figure each"
    else:
        which_text = {1: "the recurrent state tells more", -1: "the residual stream tells more", 0: "no difference"}[
            which
        ]
    return f"{name}: {scores} ({which_text})."


def alpha_verdict(name: str, predicted: Sequence[float], best: float) -> str:
    """Does alpha read off the gates agree with the best measured one? Within a factor of two counts as agreement."""
    if not predicted or math.isnan(best):
        return f"{name}: {NOT_RUN}."
    mean = stats.mean_std(predicted)
    factor = max(mean.mean, best) / max(min(mean.mean, best), 1e-12)
    agrees = "within a factor of two" if factor <= 2 else f"off by a factor of {factor:.0f}"
    return f"{name}: predicted {spread(mean, 2)}, best of the sweep {best:g}: {agrees}."


def at_edge(best: float, grid: Sequence[float]) -> str:
    """`0.65`, with a remark where the best value is the first or last of the grid: the optimum may lie outside."""
    if math.isnan(best):
        return NOT_RUN
    return f"{best:g} (an end of the grid)" if best in (min(grid), max(grid)) else f"{best:g}"


def comparison(a: str, b: str, difference: Interval | None) -> str:
    """Which of two methods on the same seeds and problems is ahead. `difference`: a minus b in percentage points."""
    which = direction(difference) if difference is not None else None
    if difference is None or which is None:
        return f"{a} and {b}: no comparison on the same seeds and problems"
    size = f"{number(difference.mean, sign=True)} pp, {interval_text(difference)}"
    verb = {1: f"{a} is ahead of {b}", -1: f"{a} is behind {b}", 0: f"{a} and {b} do not differ"}[which]
    return f"{verb} ({size})"


def rounding_remark(name: str, what: str, printed: str, values: Sequence[float]) -> str:
    """A remark where a published mean or spread is not what the published per-seed figures give at its own decimals."""
    if not printed or len(values) < 2:
        return ""
    digits = len(printed.partition(".")[2])
    found = stats.mean_std(values)
    value = found.mean if what == "mean" else found.std
    if f"{value:.{digits}f}" == f"{float(printed):.{digits}f}":
        return ""
    return (
        f"{name}: the published per-seed figures give {what} {value:.{digits + 1}f}, the published summary {printed}."
    )
