"""Cells that tables share: what was published, what a row of records gives, what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from s0.report.aggregate import Row
from s0.report.formats import MISSING, number, p_text, spread
from s0.report.paper import sentences
from s0.report.paper.context import NOT_RUN
from s0.stats import MeanStd, holm
from s0.storage.records import Record


def published_spread(row: Mapping[str, str] | None, value: str, std: str, sign: bool = False) -> str:
    """`mean ± std` from a published line; the missing sign where it was not published."""
    if row is None or not row.get(value):
        return MISSING
    deviation = float(row[std]) if row.get(std) else math.nan
    return spread(MeanStd(float(row[value]), deviation, 0), sign=sign)


def accuracy(row: Row | None) -> str:
    return _measured(row, spread(row.tuned)) if row else NOT_RUN


def base(row: Row | None) -> str:
    if row is None or not row.base.n:
        return NOT_RUN
    return spread(row.base) if row.base.std > 0 else number(row.base.mean)


def delta(row: Row | None) -> str:
    return _measured(row, spread(row.delta, sign=True)) if row else NOT_RUN


def interval(row: Row | None) -> str:
    if row is None:
        return NOT_RUN
    if math.isnan(row.interval.low):
        return MISSING
    return f"[{number(row.interval.low, sign=True)}, {number(row.interval.high, sign=True)}]"


def control(row: Row | None) -> str:
    if row is None:
        return NOT_RUN
    return spread(row.control, sign=True) if row.control.n else MISSING


def p_value(row: Row | None) -> str:
    """Over seeds and problems, Holm-adjusted where the row is one of several settings of its method."""
    return p_text(row.p_holm) if row else NOT_RUN


def sweep_p(rows: Sequence[Row]) -> list[str]:
    """`p_value` of rows that are one sweep but were aggregated one by one: Holm over all of them."""
    return [p_text(p) for p in holm([row.p_value for row in rows])]


#: what a table with `sweep_p` says of it
SWEEP_NOTE = "p: over seeds and problems, Holm-adjusted over the rows of one model; intervals are not adjusted."


def welch_p(row: Row | None) -> str:
    return p_text(row.welch_p) if row else NOT_RUN


def seeds(row: Row | None) -> str:
    return str(row.n_seeds) if row else NOT_RUN


def broken(row: Row | None) -> str:
    return _measured(row, number(row.broken.mean)) if row else NOT_RUN


def _measured(row: Row, text: str) -> str:
    """A cell whose every run failed says so instead of looking measured."""
    return text if row.delta.n else (row.status_text or MISSING)


def row_notes(rows: Sequence[Row | None]) -> list[str]:
    """What a reader of reproduced numbers has to know: shared baselines, runs that did not finish."""
    known = [r for r in rows if r is not None]
    notes = []
    if any(r.shared_baseline for r in known):
        notes.append("Seeds of one model share one greedy baseline.")
    if any(r.interval.over == "seeds x problems" for r in known):
        notes.append("95% CI and p: over seeds and problems; Welch p: over seeds only.")
    if any(r.n_family > 1 for r in known):
        notes.append("Rows that are settings of one method: p Holm-adjusted.")
    notes += mixed_notes(rows)
    lost = sum(n for r in known for status, n in r.status.items() if status != "ok")
    if lost:
        notes.append(f"{lost} run(s) did not finish; they enter no average.")
    return notes


def mixed_notes(rows: Sequence[Row | None]) -> list[str]:
    """A note where seeds of one cell were evaluated on different problems: their mean is one over unlike sets."""
    known = [r for r in rows if r is not None]
    mixed = [r for r in known if r.delta.n > 1 and r.interval.over == "seeds"]
    if not mixed:
        return []
    names = ", ".join(dict.fromkeys(f"{r.label} on {r.model}" for r in mixed))
    return [
        f"Mixed problem sets: the seeds of {names} were evaluated on different problems, and averaged all the same."
    ]


def mixed_problems(records: Sequence[Record]) -> list[str]:
    """The same note for a mean over configurations that are no cell: one sentence per model that saw unlike problems."""
    sets: dict[str, set[frozenset[str]]] = {}
    for r in records:
        if r.tuned is not None:
            sets.setdefault(r.model, set()).add(frozenset(o.problem_id for o in r.tuned.outcomes))
    return [
        f"Mixed problem sets: the runs of {model} averaged here were evaluated on {len(found)} different sets of problems."
        for model, found in sets.items()
        if len(found) > 1
    ]


def rounding_notes(name: str, row: Mapping[str, str] | None, deltas: Sequence[float]) -> list[str]:
    """Remarks where the published summary is not the mean or spread of the published per-seed figures as printed."""
    if row is None or not deltas:
        return []
    pairs = (("mean", row["delta_pp"]), ("std", row["delta_std"]))
    return [text for what, printed in pairs if (text := sentences.rounding_remark(name, what, printed, deltas))]
