"""One self-contained HTML page for any set of records: table, per-problem grid, training and alpha curves.

Completions are untrusted text (a model wrote them). They reach the page inside a JSON block in which `<`, `>`, `&` and
the line separators are escaped, and are shown through `textContent`; the page's own script is allowed by its hash alone,
so markup that slipped through could still not run, and nothing can be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from s0.data import Verdict
from s0.errors import StoreError
from s0.report.aggregate import Row, aggregate, group_records, method_label
from s0.report.aggregate import ordered as in_order
from s0.report.formats import Table
from s0.report.summary import rows_to_table
from s0.storage.files import read_jsonl, write_text
from s0.storage.records import Record, find_records, read_record

Prompts = Mapping[tuple[str, str], str]


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element: no `<`, `>`, `&`, U+2028 or U+2029 is left in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # lone surrogates cannot be written as UTF-8; JSON has an escape for them
    return "".join(f"\\u{ord(c):04x}" if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)


class Strings:
    """Interns text: ten seeds share one baseline, whose completions should be in the page once."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self._index: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        if text not in self._index:
            self._index[text] = len(self.values)
            self.values.append(text)
        return self._index[text]


def read_prompts(paths: Sequence[Path]) -> dict[tuple[str, str], str]:
    """(task, problem id) -> prompt, from the JSONL files beside the records; empty where there are none."""
    prompts: dict[tuple[str, str], str] = {}
    for path in find_records(list(paths)):
        beside = path.with_suffix(".jsonl")
        if not beside.exists():
            continue
        task = path.name.split("__")[1]
        try:
            for row in read_jsonl(beside):
                if isinstance(row, dict) and isinstance(row.get("prompt"), str):
                    prompts[task, str(row.get("problem_id", row.get("id")))] = row["prompt"]
        except (OSError, ValueError, RecursionError) as error:
            raise StoreError(
                f"{beside}: not JSON lines ({error}); give the whole file, or move it away: the page is made without prompts"
            ) from error
    return prompts


def _verdict(verdict: Verdict) -> str:
    return f"{verdict.kind}: {verdict.detail}" if verdict.detail else verdict.kind


def _kind(before: bool, after: bool) -> str:
    return {(True, True): "solved", (False, True): "new", (True, False): "broken", (False, False): "unsolved"}[
        before, after
    ]


def _run(record: Record, prompts: Prompts, strings: Strings) -> dict[str, Any] | None:
    if record.baseline is None or record.tuned is None:
        return None
    before = {o.problem_id: o for o in record.baseline.outcomes}
    problems = []
    for after in record.tuned.outcomes:
        base = before.get(after.problem_id)
        if base is None:
            continue
        prompt = prompts.get((record.task, after.problem_id))
        problems.append(
            [
                strings(after.problem_id),
                _kind(base.passed, after.passed),
                None if prompt is None else strings(prompt),
                strings(base.completion),
                strings(_verdict(base.verdict)),
                strings(after.completion),
                strings(_verdict(after.verdict)),
            ]
        )
    return {"seed": record.seed, "problems": problems}


def cell_name(cell: Sequence[str]) -> str:
    experiment, model, task, label, alpha, padding = cell
    parts = [
        experiment,
        model,
        task,
        label,
        f"alpha {alpha}" if alpha else "",
        "legacy padding" * (padding == "legacy"),
    ]
    return " · ".join(p for p in parts if p)


def _points(values: Sequence[float]) -> list[list[float]]:
    return [[i + 1, v] for i, v in enumerate(values) if math.isfinite(v)]


def training_curves(cells: Mapping[tuple[str, ...], Sequence[Record]]) -> list[dict[str, Any]]:
    """Loss and gradient norm per optimiser step, one chart per distinct training, one line per seed.

    Cells that differ in alpha alone were trained once and are drawn once.
    """
    charts: dict[tuple[str, str], dict[str, Any]] = {}
    drawn = set()
    for cell, records in cells.items():
        name = cell_name((*cell[:4], "", "exact"))
        for record in sorted(records, key=lambda r: r.seed):
            t = record.training
            # records of schema 1 kept what was minimised alone
            loss = ("loss", t.losses) if t.losses else ("objective", t.objective)
            for quantity, values in (loss, ("gradient norm", t.grad_norms)):
                if len(values) < 2 or (name, quantity, record.seed) in drawn:
                    continue
                drawn.add((name, quantity, record.seed))
                entry = {"name": f"{quantity}: {name}", "quantity": quantity, "series": []}
                chart = charts.setdefault((name, quantity), entry)
                chart["series"].append({"name": f"seed {record.seed}", "points": _points(values)})
    return [c for c in charts.values() if any(s["points"] for s in c["series"])]


def alpha_curves(records: Sequence[Record], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Held-out delta against alpha where several were run, and the validation scores where alpha was chosen."""
    measured: dict[tuple[str, str, str], dict[float, float]] = {}
    for row in rows:
        if row.delta.n and row.alpha not in ("", "auto"):
            measured.setdefault((row.model, row.task, row.method), {})[float(row.alpha)] = row.delta.mean
    chosen: dict[tuple[str, str, str], dict[int, list[list[float]]]] = {}
    for record in records:
        if len(record.training.alpha_scores) > 1:
            scores = sorted((float(a), 100 * s) for a, s in record.training.alpha_scores.items())
            key = (record.model, record.task, method_label(record))
            chosen.setdefault(key, {})[record.seed] = [list(p) for p in scores]
    charts = []
    for name, values in measured.items():
        if len(values) > 1:
            series = [{"name": "mean over seeds", "points": [list(p) for p in sorted(values.items())]}]
            charts.append({"name": "held-out: " + " · ".join(name), "quantity": "delta (pp)", "series": series})
    for name, by_seed in chosen.items():
        series = [{"name": f"seed {s}", "points": p} for s, p in sorted(by_seed.items())]
        charts.append({"name": "validation: " + " · ".join(name), "quantity": "accuracy (%)", "series": series})
    return charts


def html_table(table: Table) -> str:
    table = table.printable()

    def line(cells: Sequence[str], tag: str) -> str:
        parts = [
            f"<{tag}{' class=n' if i in table.numeric else ''}>{html.escape(c)}</{tag}>" for i, c in enumerate(cells)
        ]
        return "<tr>" + "".join(parts) + "</tr>"

    body = "\n".join(line(row, "td") for row in table.rows)
    notes = "\n".join(f'<p class="note">{html.escape(n)}</p>' for n in table.notes)
    head = line(table.columns, "th")
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>\n{body}\n</tbody></table></div>\n{notes}'


def render(records: Sequence[Record], prompts: Prompts | None = None, title: str = "S0 tuning: results") -> str:
    """The whole page as text. `prompts` maps (task, problem id) to the prompt shown beside the completions."""
    records = in_order(records)
    rows = aggregate(records)
    cells = group_records(records)
    strings = Strings()
    grids = []
    for cell, members in cells.items():
        ordered = sorted(members, key=lambda r: r.seed)
        runs = [run for r in ordered if (run := _run(r, prompts or {}, strings))]
        unfinished = [f"seed {r.seed}: {r.status}: {r.error or ''}" for r in ordered if r.status != "ok"]
        if runs or unfinished:
            grids.append({"name": cell_name(cell), "runs": runs, "unfinished": unfinished})
    data = {
        "strings": strings.values,
        "cells": grids,
        "training": training_curves(cells),
        "alpha": alpha_curves(records, rows),
    }
    files = resources.files("s0.report")
    script = files.joinpath("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    commits = sorted({str(r.environment.get("commit", "unknown"))[:12] for r in records})
    subtitle = f"Records: {len(records)}, cells: {len(rows)}; written by commit {', '.join(commits)}."
    parts = {
        "TITLE": html.escape(title),
        "SUBTITLE": html.escape(subtitle),
        "TABLE": html_table(rows_to_table(rows)),
        "SCRIPT_HASH": f"sha256-{digest}",
        "SCRIPT": script,
        "DATA": script_json(data),
    }
    # one pass over the template: text from a record that looks like a placeholder is never expanded
    pieces = files.joinpath("page.html").read_text(encoding="utf-8").split("@")
    return "".join(parts[p] if i % 2 else p for i, p in enumerate(pieces))


def write_report(paths: Sequence[Path], out: Path, title: str = "S0 tuning: results") -> Path:
    """Read the records in `paths` and write the page. Raises StoreError when there are none."""
    records = [read_record(p) for p in find_records(list(paths))]
    if not records:
        raise StoreError(f"{' '.join(map(str, paths))}: no records there; run an experiment first (make run)")
    write_text(Path(out), render(records, read_prompts(paths), title))
    return Path(out)
