"""The table and the figure a run ends with, over any set of records: `summary_table`, `write_summary`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s0.report.aggregate import Row, aggregate
from s0.report.breakdown import BREAKDOWN_COLUMN, breakdown_tables, pass_at_k_tables
from s0.report.formats import MISSING, Table, csv_text, latex, markdown, number, p_text, plain, spread
from s0.storage.files import write_text
from s0.storage.records import Record

COLUMNS = (
    "model",
    "task",
    "method",
    "alpha",
    "base %",
    "tuned %",
    "delta pp",
    "95% CI",
    "solved",
    "broken",
    "control pp",
    "Welch p",
    "paired p",
    "seeds",
    "status",
)
_NUMERIC = frozenset(range(3, 13))


def rows_to_table(rows: Sequence[Row], title: str = "") -> Table:
    """A Table with one line per row; padding and protocol are named in the method where they are not the default."""
    many = len({r.experiment for r in rows}) > 1
    lines = []
    for row in rows:
        name = row.label + (" (legacy padding)" if row.padding == "legacy" else "")
        name += " (sampled)" if row.protocol == "sampled" else ""
        interval = f"[{number(row.interval.low)}, {number(row.interval.high)}]"
        lines.append(
            (
                row.model,
                f"{row.experiment}: {row.task}" if many and row.experiment else row.task,
                name,
                row.alpha or MISSING,
                spread(row.base) if row.base.std > 0 else number(row.base.mean),
                spread(row.tuned),
                spread(row.delta, sign=True),
                MISSING if row.interval.low != row.interval.low else interval,
                number(row.solved.mean),
                number(row.broken.mean),
                spread(row.control, sign=True),
                p_text(row.welch_p),
                p_text(row.paired_p),
                f"{row.n_seeds}: {row.seed_text}" if row.n_seeds else "0",
                row.status_text,
            )
        )
    return Table(title, COLUMNS, tuple(lines), _notes(rows), _NUMERIC)


def _notes(rows: Sequence[Row]) -> tuple[str, ...]:
    notes = []
    deltas = [r for r in rows if r.delta.n]
    if deltas:
        notes.append(
            "delta: mean ± std (ddof 1) of per-seed deltas; solved / broken: mean newly solved / newly broken problems."
        )
        over = sorted({r.interval.over for r in deltas if r.interval.low == r.interval.low})
        if over:
            notes.append(f"95% CI: bootstrap of the delta, redrawing {' or '.join(over)}.")
        notes += [f"{r.label}: one seed, exact McNemar test over its problems p = {p_text(r.mcnemar_p)}." for r in deltas
                  if r.n_seeds == 1 and r.mcnemar_p == r.mcnemar_p]  # fmt: skip
    if any(r.controls for r in rows):
        names = sorted({name for r in rows for name in list(r.controls)[:1]})
        notes.append(f"control: delta of {', '.join(names)} at the same alpha.")
    for text in dict.fromkeys(r.baseline_note for r in deltas if r.shared_baseline):
        notes.append(
            f"{text}: Welch's baseline sample is that evaluation repeated, not independent runs; "
            "paired p (paired t-test, here a one-sample t-test of the deltas) is the analysis that says so."
        )
    superseded = sum(r.n_superseded for r in rows)
    if superseded:
        notes.append(f"{superseded} older record(s) of a seed that was run again with equal settings are left out.")
    left_out = sum(n for r in rows for name, n in r.status.items() if name != "ok")
    if left_out:
        notes.append(f"{left_out} record(s) did not finish (status column); they are counted and enter no average.")
    return tuple(notes)


def summary_table(records: Sequence[Record], title: str = "") -> str:
    """Plain-text table of all cells, with notes on how to read it. An empty list gives one line saying so."""
    if not records:
        return "no records\n"
    tables = [rows_to_table(aggregate(records), title), *pass_at_k_tables(records)]
    return "\n".join(plain(fold_constant(t)) for t in tables)


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
    """Write `table.{txt,md,csv,tex}`, `summary.{png,pdf}` and, where records hold what they show, `pass_at_k.*` and
    `by_<column>.*` (level, subject, db_id) in the same four forms; returns their paths.

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
            ("txt", plain(table)),
            ("md", markdown(table)),
            ("csv", csv_text(table)),
            ("tex", latex(table)),
        ):
            paths.append(out_dir / f"{name}.{suffix}")
            write_text(paths[-1], text)
    # start-up: matplotlib
    from s0.report.plots import save_figure, summary_figure

    return paths + save_figure(summary_figure(rows), out_dir / "summary")
