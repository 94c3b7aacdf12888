"""What a run ends with on a terminal: one sentence per cell, a table that fits, and where everything lies."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from s0.config.seeds import ranges
from s0.paths import EMBEDDED_MODELS
from s0.report.aggregate import Row, aggregate, group_records
from s0.report.breakdown import pass_at_k_tables
from s0.report.formats import Table, number, p_text, plain, spread
from s0.report.summary import OVER, fold_constant, text_table
from s0.storage.records import Record

#: with more cells than this the table speaks for itself
SENTENCES = 4
#: columns a narrow terminal can do without, the least needed first; the file has them all
DROPPED = ("status", "seeds p", "Welch p", "paired p", "seeds", "broken", "solved", "control", "base")


def sentences(records: Sequence[Record], width: int) -> str:
    """One sentence per cell (at most `SENTENCES` cells): base -> tuned, interval, flips, control, p, alpha, seeds."""
    rows = aggregate(records)
    if len(rows) > SENTENCES:
        return ""
    told = [_sentence(row, members) for row, members in zip(rows, group_records(records).values(), strict=True)]
    return "\n".join(textwrap.fill(t, width, subsequent_indent="  ", break_on_hyphens=False) for t in told)


def _sentence(row: Row, members: Sequence[Record]) -> str:
    name = f"{row.model}, {row.task}, {row.label}"
    if not row.n_seeds:
        return f"{name}: no result ({row.status_text})."
    seeds = f"seed {row.seeds[0]}" if row.n_seeds == 1 else f"{row.n_seeds} seeds ({row.seed_text})"
    if math.isnan(row.delta.mean):
        return f"{name}: {number(row.base.mean)} % of {row.n_problems} held-out problems, {seeds}."
    parts = [
        f"{name}: {number(row.base.mean)} % -> {number(row.tuned.mean)} % of {row.n_problems} held-out problems "
        f"({spread(row.delta, sign=True)} pp, {seeds}{_interval(row)})",
        f"{number(row.solved.mean)} newly solved and {number(row.broken.mean)} newly broken per seed",
    ]
    if row.controls:
        parts.append(f"control ({next(iter(row.controls)).replace('_', ' ')}) {number(row.control.mean, sign=True)} pp")
    p, over = _p(row)
    parts += [f"p = {p_text(p)} over {over}"] * (not math.isnan(p))
    parts += [_alpha(members)] * bool(_alpha(members))
    lost = {k: n for k, n in row.status.items() if k != "ok"}
    parts += [", ".join(f"{n} {name}" for name, n in lost.items())] * bool(lost)
    return "; ".join(parts) + "."


def _interval(row: Row) -> str:
    low, high = row.interval.low, row.interval.high
    return "" if math.isnan(low) else f", 95 % interval {number(low, sign=True)} to {number(high, sign=True)}"


def _p(row: Row) -> tuple[float, str]:
    """The p-value a sentence leads with, what it is over, and what it was adjusted for."""
    over = OVER.get(row.interval.over, row.interval.over)
    return row.p_holm, over + (f", Holm over {row.n_family} settings" if row.n_family > 1 else "")


def _alpha(members: Sequence[Record]) -> str:
    used = [(r.training.alpha, r.training.alpha_source) for r in members if r.training.alpha is not None]
    if not used:
        return ""
    counts = sorted(Counter(a for a, _ in used).items())
    values = f"{counts[0][0]:g}" if len(counts) == 1 else ", ".join(f"{a:g} x{n}" for a, n in counts)
    source = {"auto": "chosen on training problems", "config": "as given"}.get(used[0][1], used[0][1])
    return f"alpha {values} ({source})"


def fitting(table: Table, width: int) -> str:
    """The table in plain text, at most `width` wide: columns are dropped, and if that is not enough every row becomes a
    card; notes are wrapped, and name what was dropped."""
    gone: list[str] = []
    for name in ("", *DROPPED):
        if name in table.columns:
            i = table.columns.index(name)
            keep = [k for k in range(len(table.columns)) if k != i]
            table = Table(
                table.title, tuple(table.columns[k] for k in keep), tuple(tuple(r[k] for k in keep) for r in table.rows),
                table.notes, frozenset(keep.index(k) for k in table.numeric if k != i),
            )  # fmt: skip
            gone.append(name)
        text = plain(replace(table, notes=()))
        if max(map(len, text.splitlines())) <= width:
            break
    else:
        text = _cards(table, width)
    notes = [textwrap.fill(n, width, subsequent_indent="  ", break_on_hyphens=False) for n in table.notes]
    notes += [textwrap.fill(f"left out here: {', '.join(gone)}.", width, subsequent_indent="  ")] * bool(gone)
    return text + "".join(f"{n}\n" for n in notes)


def _cards(table: Table, width: int) -> str:
    lines = [table.title] if table.title else []
    for row in table.rows:
        lines.append("-" * min(width, 40))
        for column, cell in zip(table.columns, row, strict=True):
            lines += textwrap.wrap(f"{column:<12} {cell}", width, subsequent_indent=" " * 13)
    return "\n".join(lines) + "\n"


def screen_table(records: Sequence[Record], width: int, title: str = "") -> str:
    """The summary table (and pass@k where answers were sampled) for a terminal of `width` columns."""
    tables = [text_table(aggregate(records), title), *map(fold_constant, pass_at_k_tables(records))]
    return "\n".join(fitting(t, width) for t in tables)


def results(records: Sequence[Record], width: int) -> str:
    """Table and sentences: what README shows, too."""
    return "\n".join(t for t in (screen_table(records, width), sentences(records, width)) if t)


def whereabouts(
    records: Sequence[Record],
    reused: int,
    folder: Path,
    report: Path | None,
    learned: tuple[Path, Path] | None,
    program: str,
) -> str:
    """Where the records, the page and the state of the first seed lie, and the lines that use the state.
    `learned`: (file of that seed's record, folder of its adapter)."""
    lines = [f"{len(records)} record(s), {reused} of {len(records)} reused; table, figure and data: {folder}"]
    if report:
        lines.append(f"every answer with its verdict: {report}")
    first = next((r for r in records if r.status == "ok" and r.method == "s0"), None)
    if learned and first:
        seeds = ranges(sorted({r.seed for r in records if r.method == "s0" and r.status == "ok"}))
        s0 = "s0 export" if program.startswith("s0") else "python -m s0 export"
        loads = str(first.model_info.get("path") or first.model)
        lines += [
            f"learned state of seed {first.seed}{f' (of {seeds})' if len(records) > 1 else ''}:",
            f"  {learned[1]}",
            f"  {s0} -o my_state \\",
            f"    {learned[0]}",
            "  from s0 import S0Trainer",
            f'  trainer = S0Trainer.from_pretrained("{_loads(loads)}")',
            '  trainer.load("my_state"); trainer.activate(); trainer.generate("...")',
        ]
    return "\n".join(lines)


def _loads(path: str) -> str:
    """What `from_pretrained` takes for a model path of a config, relative to where we stand if it lies there."""
    if not path.startswith("embedded:"):
        return path
    folder = EMBEDDED_MODELS / path.removeprefix("embedded:")
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
