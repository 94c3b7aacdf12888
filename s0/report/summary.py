"""The table and the figure a run ends with, over any set of records: `summary_table`, `write_summary`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from s0.report.aggregate import Row, aggregate
from s0.report.breakdown import BREAKDOWN_COLUMN, breakdown_tables, pass_at_k_tables
from s0.report.formats import MISSING, Table, csv_text, latex, markdown, number, p_text, plain, spread
from s0.storage.files import write_text
from s0.storage.records import Record

#: terminals and README blocks are read at this width
WIDTH = 100
COLUMNS = (
    "model",
    "task",
    "method",
    "alpha",
    "base %",
    "tuned %",
    "delta pp",
    "95% CI",
    "p",
    "Welch p",
    "paired p",
    "solved",
    "broken",
    "control pp",
    "seeds",
    "status",
)
_NUMERIC = frozenset(range(3, 14))
#: the same in files for other programs: full names and digits, every p in a column of its own
DATA_COLUMNS = (
    *("experiment", "model", "task", "method", "alpha", "padding", "protocol", "seeds", "n_seeds", "n_problems"),
    *("n_baselines", "base_pct", "base_std", "tuned_pct", "tuned_std", "delta_pp", "delta_std", "interval_over"),
    *("interval_low_pp", "interval_high_pp", "p_seeds_and_problems", "p_problems_one_seed", "p_holm", "n_holm_family"),
    *("welch_p_seeds_only", "paired_p_seeds_only", "mcnemar_p_one_seed", "solved", "broken", "control_pp"),
    *("control_std", "status"),
)


def _interval(row: Row) -> str:
    return MISSING if math.isnan(row.interval.low) else f"[{number(row.interval.low)}, {number(row.interval.high)}]"


def _name(row: Row) -> str:
    """The method; padding and protocol where they are not the default."""
    legacy = " (legacy padding)" if row.padding == "legacy" else ""
    return row.label + legacy + (" (sampled)" if row.protocol == "sampled" else "")


def _task(row: Row, rows: Sequence[Row]) -> str:
    many = len({r.experiment for r in rows}) > 1
    return f"{row.experiment}: {row.task}" if many and row.experiment else row.task


def rows_to_table(rows: Sequence[Row], title: str = "") -> Table:
    """A Table with one line per row and everything in it, for pages and documents; `text_table` is the one to print."""
    lines = [
        (
            row.model,
            _task(row, rows),
            _name(row),
            row.alpha_text or MISSING,
            spread(row.base) if row.base.std > 0 else number(row.base.mean),
            spread(row.tuned),
            spread(row.delta, sign=True),
            _interval(row),
            p_text(row.p_holm),
            p_text(row.welch_p),
            p_text(row.paired_p),
            number(row.solved.mean),
            number(row.broken.mean),
            spread(row.control, sign=True),
            f"{row.n_seeds}: {row.seed_text}" if row.n_seeds else "0",
            row.status_text,
        )
        for row in rows
    ]
    return Table(title, COLUMNS, tuple(lines), notes(rows), _NUMERIC)


def text_table(rows: Sequence[Row], title: str = "") -> Table:
    """The table for terminals, at most `WIDTH` columns where names allow: what is the same in every row stands above or
    below it, the alpha beside its method, Welch's and the paired p in one column where they are equal."""
    seeds = {row.seeds for row in rows}
    same_p = all(p_text(r.welch_p) == p_text(r.paired_p) for r in rows)
    columns: list[tuple[str, bool, list[str]]] = [
        ("model", False, [row.model for row in rows]),
        ("task", False, [_task(row, rows) for row in rows]),
        ("method", False, [_name(r) + (f" α={r.alpha_text}" if r.alpha else "") for r in rows]),
        ("base", True, [spread(r.base) if r.base.std > 0 else number(r.base.mean) for r in rows]),
        ("tuned", True, [number(r.tuned.mean) for r in rows]),
        ("delta pp", True, [spread(r.delta, sign=True) for r in rows]),
        ("95% CI", True, [_interval(r) for r in rows]),
        ("p", True, [p_text(r.p_holm) for r in rows]),
        ("seeds p" if same_p else "Welch p", True, [p_text(r.welch_p) for r in rows]),
    ]
    columns += [] if same_p else [("paired p", True, [p_text(r.paired_p) for r in rows])]
    if any(r.controls for r in rows):
        columns.append(("control", True, [number(r.control.mean, sign=True) for r in rows]))
    if len(seeds) > 1:
        columns.append(("seeds", True, [str(r.n_seeds) for r in rows]))
    if any(name != "ok" for r in rows for name in r.status):
        columns.append(("status", False, [r.status_text for r in rows]))
    heading = [title] if title else []
    for name, _, cells in columns[:2]:
        if len(set(cells)) == 1:
            heading.append(cells[0])
            columns = [c for c in columns if c[0] != name]
    changes: list[tuple[str, bool, list[str]]] = [
        ("solved", True, [number(r.solved.mean) for r in rows]),
        ("broken", True, [number(r.broken.mean) for r in rows]),
    ]
    if sum(max(map(len, (c[0], *c[2]))) + 2 for c in [*columns, *changes]) - 2 <= WIDTH:
        at = 1 + next(i for i, c in enumerate(columns) if c[0] == "delta pp")
        columns[at:at] = changes
    lines = tuple(zip(*(c[2] for c in columns), strict=True))
    numeric = frozenset(i for i, c in enumerate(columns) if c[1])
    below = notes(rows, text=True, same_p=same_p)
    if len(seeds) == 1 and rows[0].n_seeds:
        below = (f"{rows[0].n_seeds} seed{'s' * (rows[0].n_seeds > 1)}: {rows[0].seed_text}.", *below)
    return Table(" · ".join(heading), tuple(c[0] for c in columns), lines, below, numeric)


def data_table(rows: Sequence[Row]) -> Table:
    """One line per row for other programs (CSV): unrounded numbers, `DATA_COLUMNS`; empty where there is no number."""

    def text(value: float) -> str:
        return "" if math.isnan(value) else f"{value:.10g}"

    lines = []
    for r in rows:
        both = r.interval.over == "seeds x problems"
        numbers = (r.base.mean, r.base.std, r.tuned.mean, r.tuned.std, r.delta.mean, r.delta.std)
        head = (r.experiment, r.model, r.task, r.label, r.alpha_text, r.padding, r.protocol, r.seed_text)
        ps = (r.p_value if both else math.nan, r.p_value if r.interval.over == "problems" else math.nan, r.p_holm)
        counts = (r.n_seeds, r.n_problems, r.n_baselines)
        rest = (r.welch_p, r.paired_p, r.mcnemar_p, r.solved.mean, r.broken.mean, r.control.mean, r.control.std)
        lines.append(
            (
                *(*head, *map(str, counts), *map(text, numbers), r.interval.over if r.delta.n else ""),
                *(text(r.interval.low), text(r.interval.high), *map(text, ps), str(r.n_family)),
                *(*map(text, rest), r.status_text),
            )
        )
    return Table("", DATA_COLUMNS, tuple(lines))


def notes(rows: Sequence[Row], *, text: bool = False, same_p: bool = False) -> tuple[str, ...]:
    """What the numbers of these rows claim, in few words; docs/statistics.md has the whole of it."""
    deltas = [r for r in rows if r.delta.n]
    out = []
    if deltas:
        units = "base, tuned in percent; delta: mean ± std over seeds" if text else "delta: mean ± std over seeds"
        out.append(f"{units}; solved, broken: problems, mean over seeds." if not text else f"{units}.")
        out += _p_notes(deltas, same_p)
    out += [f"{r.label}: one seed, exact McNemar p = {p_text(r.mcnemar_p)} over its problems." for r in deltas
            if r.n_seeds == 1 and r.mcnemar_p == r.mcnemar_p]  # fmt: skip
    names = sorted({name for r in rows for name in list(r.controls)[:1]})
    if names:
        out.append(f"control: delta of {', '.join(names)} at the same alpha.")
    auto = [r for r in deltas if r.chosen_alphas]
    if any(len(set(r.chosen_alphas)) > 1 for r in auto):
        out.append("alpha: median (range) of what the seeds chose on training problems.")
    out += [
        f"{r.model} {r.label}: {r.n_alpha_at_edge} of {len(r.chosen_alphas)} seeds chose an alpha at an end of its grid; "
        "widen method.alpha_grid."
        for r in auto
        if r.n_alpha_at_edge
    ]
    superseded = sum(r.n_superseded for r in rows)
    if superseded:
        out.append(f"{superseded} older record(s) of a seed that was run again with equal settings are left out.")
    left_out = sum(n for r in rows for name, n in r.status.items() if name != "ok")
    if left_out:
        out.append(f"{left_out} record(s) did not finish (status column); they are counted and enter no average.")
    return tuple(out)


def _p_notes(deltas: Sequence[Row], same_p: bool) -> list[str]:
    over = dict.fromkeys(OVER[r.interval.over] for r in deltas if r.interval.over in OVER)
    out = [f"p, 95% CI: over {', or '.join(over)}."] if over else []
    largest = max(r.n_family for r in deltas)
    if largest > 1:
        out[-1:] = [*out[-1:], f"p: Holm-adjusted over the settings (alphas, layers, ...) of a method, up to {largest}; "
                    "95% CI not adjusted."]  # fmt: skip
    if any(not math.isnan(r.paired_p) for r in deltas):
        name = "seeds p (Welch's and the paired, equal here)" if same_p else "Welch p, paired p"
        out.append(f"{name}: over seeds only, for these very problems.")
    shared = dict.fromkeys(r.baseline_note for r in deltas if r.shared_baseline)
    out += [f"{text}." for text in shared]
    own = [r for r in deltas if r.n_seeds > 1 and r.n_baselines == r.n_seeds]
    if own:
        out.append("each seed has its own baseline evaluation." if len(own) == len(deltas) else
                   f"own baseline evaluation per seed: {', '.join(dict.fromkeys(_name(r) for r in own))}.")  # fmt: skip
    mixed = [r for r in deltas if not r.same_problems]
    if mixed:
        names = ", ".join(dict.fromkeys(_name(r) for r in mixed))
        out.append(f"{names}: seeds were evaluated on different problems; no p or CI over problems.")
    return out


#: what an interval and its p generalise over -> words for a table
OVER = {
    "seeds x problems": "seeds and problems",
    "problems": "problems (one seed)",
    "seeds": "seeds only",
}


def summary_table(records: Sequence[Record], title: str = "") -> str:
    """Plain-text table of all cells, with notes on how to read it. An empty list gives one line saying so."""
    if not records:
        return "no records\n"
    tables = [text_table(aggregate(records), title), *map(fold_constant, pass_at_k_tables(records))]
    return "\n".join(plain(t) for t in tables)


def breakdown_text(records: Sequence[Record]) -> str:
    """Plain-text accuracy by level, subject or database of every cell whose task has such columns; "" where none has."""
    return "\n".join(plain(fold_constant(t)) for t in breakdown_tables(records))


def fold_constant(table: Table) -> Table:
    """The model and task columns moved into the title where they are the same in every row: terminals are narrow."""
    folded = [i for i in (0, 1) if len({row[i] for row in table.rows}) == 1]
    kept = [i for i in range(len(table.columns)) if i not in folded]
    title = " · ".join([*([table.title] if table.title else []), *(table.rows[0][i] for i in folded)])
    rows = tuple(tuple(row[i] for i in kept) for row in table.rows)
    numeric = frozenset(kept.index(i) for i in table.numeric if i in kept)
    return Table(title, tuple(table.columns[i] for i in kept), rows, table.notes, numeric)


def write_summary(records: Sequence[Record], out_dir: Path, title: str = "") -> list[Path]:
    """Write `table.{txt,md,csv,tex}` (the CSV with `DATA_COLUMNS`), `summary.{png,pdf}` and, where records hold what
    they show, `pass_at_k.*` and `by_<column>.*` (level, subject, db_id) in the same four forms; returns their paths.

    Raises StoreError when the folder cannot be written. With no records nothing is written and the list is empty.
    """
    if not records:
        return []
    out_dir = Path(out_dir)
    rows = aggregate(records)
    tables = {"table": rows_to_table(rows, title)}
    tables |= dict(zip(["pass_at_k"], pass_at_k_tables(records), strict=False))
    tables |= {f"by_{t.columns[BREAKDOWN_COLUMN]}": t for t in breakdown_tables(records)}
    paths = []
    for name, table in tables.items():
        for suffix, text in (
            ("txt", plain(text_table(rows, title) if name == "table" else table)),
            ("md", markdown(table)),
            ("csv", csv_text(data_table(rows) if name == "table" else table)),
            ("tex", latex(table)),
        ):
            paths.append(out_dir / f"{name}.{suffix}")
            write_text(paths[-1], text)
    # start-up: matplotlib
    from s0.report.plots import save_figure, summary_figure

    return paths + save_figure(summary_figure(rows), out_dir / "summary")
