"""Parts of an accuracy: pass@k of sampled evaluations, and accuracy by level, subject or database."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from s0 import stats
from s0.report.aggregate import group_records, newest_per_seed, scores
from s0.report.formats import MISSING, Table, number, spread
from s0.storage.records import Evaluation, Record

#: where a breakdown's table holds the values of its column (which names the table)
BREAKDOWN_COLUMN = 4


BreakdownCell = tuple[tuple[str, ...], list[Record]]


def _cells(records: Sequence[Record]) -> list[BreakdownCell]:
    """(model, task, method, alpha) and one finished record per seed, for every cell that has any."""
    many = len({r.experiment for r in records}) > 1
    found: list[BreakdownCell] = []
    for (experiment, model, task, label, alpha, padding), members in group_records(records).items():
        done = newest_per_seed([r for r in members if r.status == "ok" and r.baseline is not None])
        if done:
            name = label + (" (legacy padding)" if padding == "legacy" else "")
            shown = f"{experiment}: {task}" if many and experiment else task
            found.append(((model, shown, name, alpha or MISSING), done))
    return found


def pass_at(evaluation: Evaluation, k: int) -> float:
    """Unbiased pass@k in percent, mean over problems; nan where fewer than k answers were sampled."""
    if not evaluation.outcomes or min(o.n for o in evaluation.outcomes) < k:
        return float("nan")
    n, c = ([getattr(o, name) for o in evaluation.outcomes] for name in ("n", "c"))
    return 100 * float(np.mean(stats.pass_at_k(n, c, k)))


def pass_at_k_tables(records: Sequence[Record]) -> list[Table]:
    """One table with a line per sampled cell and a pair of columns (base, tuned) per k of `task.ks`; [] without any."""
    lines = []
    cells = [(cell, done) for cell, done in _cells(records) if all(r.baseline.protocol == "sampled" for r in done)]  # type: ignore[union-attr]
    ks = sorted({int(k) for _, done in cells for r in done for k in r.config.get("task", {}).get("ks", [1])})
    if not cells:
        return []
    for cell, done in cells:
        line = list(cell)
        for k in ks:
            base = [pass_at(r.baseline, k) for r in done if r.baseline is not None]
            tuned = [pass_at(r.tuned, k) for r in done if r.tuned is not None and r.method != "none"]
            line += [spread(stats.mean_std(base)), spread(stats.mean_std(tuned))]
        first = done[0].baseline
        assert first is not None
        lines.append((*line, f"n={first.n_samples}, T={first.temperature:g}", str(len(done))))
    heads = [f"{which} @{k} %" for k in ks for which in ("base", "tuned")]
    columns = ("model", "task", "method", "alpha", *heads, "samples", "seeds")
    note = "pass@k: unbiased estimator 1 - C(n-c, k) / C(n, k) per problem, mean over problems; mean ± std over seeds."
    return [Table("pass@k", columns, tuple(lines), (note,), frozenset(range(3, 4 + len(heads))))]


def breakdown_tables(records: Sequence[Record]) -> list[Table]:
    """One table per breakdown column of the tasks: accuracy, delta, newly solved and broken per value; [] without any."""
    cells = _cells(records)
    columns = list(
        dict.fromkeys(c for _, done in cells for r in done for o in r.baseline.outcomes for c in o.meta)  # type: ignore[union-attr]
    )
    tables = []
    for column in columns:
        lines = []
        for cell, done in cells:
            for value in sorted({str(o.meta[column]) for o in done[0].baseline.outcomes if column in o.meta}):  # type: ignore[union-attr]
                lines.append((*cell, value, *_part(done, column, value)))
        heads = (
            "model",
            "task",
            "method",
            "alpha",
            column,
            "problems",
            "base %",
            "tuned %",
            "delta pp",
            "solved",
            "broken",
        )
        tables.append(Table(f"by {column}", heads, tuple(lines), (), frozenset(range(5, len(heads))) | {3}))
    return tables


def _part(done: Sequence[Record], column: str, value: str) -> tuple[str, ...]:
    """Cells of one value: problems, base, tuned, delta, newly solved, newly broken (means over seeds)."""
    base: list[float] = []
    tuned: list[float] = []
    solved: list[int] = []
    broken: list[int] = []
    size = 0
    for r in done:
        assert r.baseline is not None
        ids = sorted({o.problem_id for o in r.baseline.outcomes if str(o.meta.get(column)) == value})
        size = max(size, len(ids))
        before = scores(r.baseline)
        base.append(100 * float(np.mean([before[i] for i in ids])))
        if r.tuned is not None and r.method != "none":
            after = scores(r.tuned)
            tuned.append(100 * float(np.mean([after[i] for i in ids])))
            ups, downs = r.flips()
            solved.append(len(set(ids).intersection(ups)))
            broken.append(len(set(ids).intersection(downs)))
    deltas = [t - b for b, t in zip(base, tuned, strict=False)]
    return (
        str(size),
        number(stats.mean_std(base).mean),
        spread(stats.mean_std(tuned)),
        spread(stats.mean_std(deltas), sign=True),
        number(stats.mean_std(solved).mean),
        number(stats.mean_std(broken).mean),
    )
