"""Curves over cells: layer groups, number of solutions, model size, alpha. Needs records alone.

Each function returns (x, Row) pairs in the order of x, one line of a table or one point of a figure each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from s0.errors import DataError
from s0.report.aggregate import Row, aggregate, alpha_text, ordered
from s0.storage.records import Record

LAYER_GROUPS = ("early", "middle", "late", "all")


def by(records: Sequence[Record], key: Callable[[Record], Any]) -> dict[Any, list[Record]]:
    """Records grouped by `key`, groups in the order of `ordered` records."""
    groups: dict[Any, list[Record]] = {}
    for record in ordered(records):
        groups.setdefault(key(record), []).append(record)
    return groups


def method_setting(record: Record, name: str) -> Any:
    """A field of the resolved method configuration (lists become tuples)."""
    value = record.config.get("method", {}).get(name)
    return tuple(value) if isinstance(value, list) else value


def single_row(records: Sequence[Record], what: str) -> Row:
    """The one row these records form. Raises DataError where they are several cells: they must not be averaged."""
    rows = aggregate(records)
    if len(rows) != 1:
        raise DataError(
            f"{what}: records form {len(rows)} cells ({', '.join(r.label for r in rows)}) that must not be averaged; "
            "keep them in folders of their own, or remove those of an older setting"
        )
    return rows[0]


def layer_ablation(records: Sequence[Record]) -> list[tuple[str, Row, int]]:
    """(layer group, row, trainable numbers) for `method.layers`; named groups first, in depth order (Table 5)."""
    groups = by([r for r in records if r.method == "s0"], lambda r: method_setting(r, "layers") or "all")
    order = [g for g in LAYER_GROUPS if g in groups] + [g for g in groups if g not in LAYER_GROUPS]
    out = []
    for group in order:
        name = group if isinstance(group, str) else f"layers {', '.join(map(str, group))}"
        params = max(int(r.method_info.get("trainable_params", 0)) for r in groups[group])
        out.append((name, single_row(groups[group], f"layers={name}"), params))
    return out


def data_efficiency(records: Sequence[Record]) -> list[tuple[int, Row]]:
    """(number of training solutions, row): `method.n_solutions`, or what there was where it was not limited."""

    def n_solutions(record: Record) -> int:
        limit = method_setting(record, "n_solutions")
        # without a limit seeds differ by a few solutions; they are one point, placed at the first seed's number
        return int(limit) if limit is not None else 0

    groups = by([r for r in records if r.method == "s0"], n_solutions)
    out = []
    for n, members in groups.items():
        used = [r.training.n_solutions for r in members if r.status == "ok"]
        out.append((n or round(sum(used) / max(len(used), 1)), single_row(members, f"n_solutions={n or 'all'}")))
    return sorted(out, key=lambda pair: pair[0])


def scaling(records: Sequence[Record]) -> list[tuple[str, int, Row]]:
    """(model, numbers in its full state, row), smallest model first (Figure 3a)."""
    groups = by([r for r in records if r.method == "s0"], lambda r: r.model)
    size = {m: max(int(r.model_info.get("n_parameters") or 0) for r in g) for m, g in groups.items()}
    out = []
    for model in sorted(groups, key=lambda m: (size[m], m)):
        params = max(int(r.method_info.get("trainable_params", 0)) for r in groups[model])
        out.append((model, params, single_row(groups[model], f"model={model}")))
    return out


def alpha_curve(records: Sequence[Record]) -> list[tuple[float, Row]]:
    """(alpha, row) for fixed alphas in increasing order; cells whose alpha was chosen automatically are left out."""
    fixed = [r for r in records if r.method == "s0" and r.alpha is not None and alpha_text(r) != "auto"]
    groups = by(fixed, lambda r: float(r.alpha or 0.0))
    return [(alpha, single_row(groups[alpha], f"alpha={alpha:g}")) for alpha in sorted(groups)]


def best_alpha(curve: Sequence[tuple[float, Row]]) -> float:
    """The alpha with the largest mean delta (the smallest such alpha on a tie); NaN for an empty curve."""
    known = [(row.delta.mean, -alpha) for alpha, row in curve if row.delta.n]
    return -max(known)[1] if known else float("nan")
