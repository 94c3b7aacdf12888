"""Tables and figures over a varied quantity: model size, alpha, number of solutions, task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from s0 import stats
from s0.report.aggregate import Row
from s0.report.formats import MISSING, Table, number, p_text
from s0.report.paper import columns as c
from s0.report.paper import sentences
from s0.report.paper.comparisons import EMBEDDED_NOTE
from s0.report.paper.context import NOT_RUN, Built, Context, model_name, task_name
from s0.report.plots import COLOURS, new_figure
from s0.report.series import alpha_curve, best_alpha, data_efficiency, scaling
from s0.tiny.standins import EMBEDDED, STAND_IN

PUBLISHED_STYLE: dict[str, Any] = {"color": "#777777", "linestyle": "--", "marker": "s", "markersize": 4, "capsize": 2}
_STYLES = {"reproduced": ("#009E73", "^"), "embedded": (COLOURS["s0"], "o")}


def _kind(model: str) -> str:
    return "embedded" if model in EMBEDDED else "reproduced"


def _plot(ax: Any, points: Sequence[tuple[float, Row]], kind: str, label: str) -> None:
    shade, marker = _STYLES[kind]
    known = [(x, row.delta) for x, row in points if row.delta.n]
    if known:
        errors = [d.std if d.std > 0 else 0.0 for _, d in known]
        ax.errorbar([x for x, _ in known], [d.mean for _, d in known], yerr=errors, color=shade, marker=marker,
                    markersize=4, capsize=2, label=label)  # fmt: skip


def not_run(ax: Any, what: str) -> None:
    """An axis without measurements says so instead of standing empty."""
    ax.text(0.5, 0.5, f"{what}:\n{NOT_RUN}", ha="center", va="center", transform=ax.transAxes, color="#777777")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)


def fig3a(ctx: Context) -> Built:
    """Gain against model size."""
    published = {r["model"]: r for r in ctx.published("scaling")}
    rows = scaling(ctx.records("fig3a_scaling"))
    by_name = {model_name(m): (n, row) for m, n, row in rows}
    kinds = {model_name(m): _kind(m) for m, _, _ in rows}
    lines = []
    for name in dict.fromkeys([*published, *by_name]):
        line, (params, row) = published.get(name), by_name.get(name, (0, None))
        kind = kinds.get(name, "reproduced")
        cells = [c.base(row), c.delta(row), c.p_value(row), c.seeds(row)]
        none = [MISSING] * len(cells)
        lines.append(
            (
                name,
                line["state_params_m"] + " M" if line else (f"{params:,}" if params else MISSING),
                line["baseline_pct"] if line else MISSING,
                c.published_spread(line, "delta_pp", "std_pp", sign=True),
                (line["p_value"] or MISSING) if line else MISSING,
                *(none if kind == "embedded" else cells),
                *(cells if kind == "embedded" else none),
            )
        )
    if not any(kind == "embedded" for kind in kinds.values()):
        lines.append(("embedded models", *([MISSING] * 8), *([NOT_RUN] * 4)))
    heads = [f"{kind} {what}" for kind in ("reproduced", "embedded") for what in ("base %", "Δ", "p", "seeds")]
    table = Table(
        "S0 against model size",
        ("model", "state size", "published base %", "published Δ", "published p", *heads),
        tuple(lines),
        (EMBEDDED_NOTE, *c.row_notes([row for _, _, row in rows])),
        frozenset(range(1, 13)),
    )
    figure, (left, right) = new_figure(6.6, 2.9, columns=2)
    sizes = [float(name.removeprefix("Qwen3.5-").removesuffix("B")) for name in published]
    deltas = [float(r["delta_pp"]) for r in published.values()]
    left.errorbar(sizes, deltas, yerr=[float(r["std_pp"]) for r in published.values()], label="published",
                  **PUBLISHED_STYLE)  # fmt: skip
    real = [(float(model_name(m).removeprefix("Qwen3.5-").removesuffix("B")), row) for m, _, row in rows
            if model_name(m) in published]  # fmt: skip
    _plot(left, real, "reproduced", "reproduced")
    left.set_xscale("log", base=2)
    left.set_xticks(sizes, [f"{s:g}B" for s in sizes])
    left.set_xlabel("Qwen3.5 parameters")
    left.set_ylabel("Δ pass@1 (pp)")
    left.legend(fontsize=7, frameon=False)
    tiny = [(m, row) for m, _, row in rows if m in EMBEDDED or m.startswith("tiny")]
    if any(row.delta.n for _, row in tiny):
        for i, (_, row) in enumerate(tiny):
            right.bar(
                i, row.delta.mean, yerr=row.delta.std if row.delta.std > 0 else None, color=COLOURS["s0"], capsize=2
            )
        sizes_text = [f"{m}\n({n:,} state)" for m, n, _ in rows if m in dict(tiny)]
        right.set_xticks(range(len(tiny)), sizes_text, fontsize=7)
        right.set_xlim(-1, len(tiny))
        right.set_ylabel("Δ pass@1 (pp), embedded")
    else:
        not_run(right, "embedded models")
    return Built({"fig3a_scaling": table}, {"fig3a_scaling": figure})


def _alpha(ctx: Context, experiment: str, model: str, title: str, low: float, high: float, region: str) -> Built:
    curves = {m: alpha_curve(ctx.of(experiment, m, method="s0")) for m in (model, STAND_IN[model])}
    lines: list[tuple[str, ...]] = []
    for m, points in curves.items():
        for (alpha, row), p in zip(points, c.sweep_p([row for _, row in points]), strict=True):
            cells = (c.accuracy(row), c.delta(row), c.interval(row), p, c.control(row), c.seeds(row))
            lines.append((model_name(m), _kind(m), f"{alpha:g}", *cells))
        if not points:
            lines.append((model_name(m), _kind(m), *([NOT_RUN] * 7)))
    published = f"Published: {region} for alpha {low:g} to {high:g} on {model_name(model)}."
    table = Table(
        title,
        ("model", "", "alpha", "tuned %", "Δ pp", "95% CI", "p", "control Δ", "seeds"),
        tuple(lines),
        (
            f"{published} {EMBEDDED_NOTE} {c.SWEEP_NOTE}",
            *c.row_notes([row for points in curves.values() for _, row in points]),
        ),
        frozenset(range(2, 9)),
    )
    figure, (ax,) = new_figure(4.6, 3.0)
    ax.axvspan(low, high, color="#dddddd", label=f"published {region} ({model_name(model)})")
    for m, points in curves.items():
        _plot(ax, points, _kind(m), f"{_kind(m)}: {model_name(m)}")
        controls = [(a, row.control) for a, row in points if row.control.n]
        if controls:
            ax.plot([a for a, _ in controls], [v.mean for _, v in controls], color=COLOURS["control"], marker=".",
                    linewidth=1, label=f"random state: {model_name(m)}")  # fmt: skip
    if not any(curves.values()):
        ax.text(0.5, 0.5, NOT_RUN, ha="center", va="center", transform=ax.transAxes, color="#777777")
        ax.set_xlim(low / 4, high * 4)
        ax.set_yticks([])
    else:
        ax.axhline(0, color="#555555", linewidth=0.8)
    ax.set_xscale("log")
    ticks = sorted({a for points in curves.values() for a, _ in points} or {low, high})
    ax.set_xticks(ticks, [f"{a:g}" for a in ticks], fontsize=7)
    ax.set_xticks([], minor=True)
    ax.set_xlabel(r"$\alpha$")
    ax.set_ylabel("Δ pass@1 (pp)")
    figure.legend(loc="outside upper center", ncols=2, fontsize=7, frameon=False)
    word = "Gdn" if model == "qwen35_4b" else "Mamba"
    tiny = best_alpha(curves[STAND_IN[model]])
    macros = {f"repTiny{word}BestAlpha": sentences.at_edge(tiny, [a for a, _ in curves[STAND_IN[model]]])}
    return Built({experiment: table}, {experiment: figure}, macros)


def fig3b(ctx: Context) -> Built:
    """Alpha sweep on Mamba-2."""
    low, high = ctx.mechanism("alpha_best_mamba2_low"), ctx.mechanism("alpha_best_mamba2_high")
    return _alpha(ctx, "fig3b_alpha_falcon", "falcon_h1_7b", "Alpha sweep on Mamba-2", low, high, "best")


def alpha_sweep_qwen(ctx: Context) -> Built:
    """Alpha sweep on GatedDeltaNet."""
    low, high = ctx.mechanism("alpha_plateau_gdn_low"), ctx.mechanism("alpha_plateau_gdn_high")
    return _alpha(ctx, "alpha_sweep_qwen", "qwen35_4b", "Alpha sweep on GatedDeltaNet", low, high, "plateau")


def efficiency(ctx: Context) -> Built:
    """Gain against the number of training solutions."""
    experiment, model = "data_efficiency", "qwen35_4b"
    published = {int(r["n_solutions"]): r for r in ctx.published("data_efficiency")}
    found = {m: data_efficiency(ctx.of(experiment, m)) for m in (model, STAND_IN[model])}
    numbers = sorted({*published, *(n for points in found.values() for n, _ in points)})
    lines = []
    for n in numbers:
        line = published.get(n)
        cells = [c.published_spread(line, "delta_pp", "std_pp", sign=True), line["n_seeds"] if line else MISSING]
        for points in found.values():
            row = dict(points).get(n)
            cells += [c.delta(row), c.seeds(row)]
        lines.append((str(n), *cells))
    heads = ("published Δ", "published seeds", "reproduced Δ", "reproduced seeds", "embedded Δ", "embedded seeds")
    table = Table(
        "S0 against the number of verified training solutions",
        ("solutions", *heads),
        tuple(lines),
        (EMBEDDED_NOTE, *c.row_notes([row for points in found.values() for _, row in points])),
        frozenset(range(7)),
    )
    figure, (ax,) = new_figure(4.4, 2.9)
    errors = [float(r["std_pp"]) if r["std_pp"] else 0.0 for r in published.values()]
    deltas = [float(r["delta_pp"]) for r in published.values()]
    ax.errorbar(list(published), deltas, yerr=errors, label=f"published: {model_name(model)}", **PUBLISHED_STYLE)
    for m, points in found.items():
        _plot(ax, points, _kind(m), f"{_kind(m)}: {model_name(m)}")
    ax.set_xlabel("verified training solutions")
    ax.set_ylabel("Δ pass@1 (pp)")
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    ax.legend(fontsize=7, frameon=False)
    return Built({"data_efficiency": table}, {"data_efficiency": figure})


def cross_domain(ctx: Context) -> Built:
    """MATH-500, GSM8K and Spider, with Welch's p recomputed from the published per-seed figures."""
    experiment, model = "cross_domain", "qwen35_4b"
    lines: list[tuple[str, ...]] = []
    macros: dict[str, str] = {}
    seen: list[Row | None] = []
    remarks: list[str] = []
    for task, name in (("math500", "Math"), ("gsm8k", "Gsm")):
        before = ctx.published_values(f"{task}_per_seed", "baseline_pass1")
        after = ctx.published_values(f"{task}_per_seed", "tuned_pass1")
        p = stats.welch(after, before).p_value
        line = ctx.published_row("summary", model=model, task=task, method="s0")
        delta = c.published_spread(line, "delta_pp", "delta_std", sign=True)
        changes = [100 * (a - b) for a, b in zip(after, before, strict=True)]
        remarks += c.rounding_notes(task_name(task), line, changes)
        macros[f"recomputed{name}P"], macros[f"pub{name}Delta"] = p_text(p), delta
        rows = ctx.rows(experiment, model, "s0", task)
        candidates: list[Row | None] = [*rows] or [None]
        for row in candidates:
            seen.append(row)
            lines.append(
                (
                    task_name(task),
                    "default",
                    c.published_spread(line, "accuracy_pct", "accuracy_std"),
                    delta,
                    p_text(p),
                    str(len(after)),
                    c.accuracy(row),
                    c.delta(row),
                    c.interval(row),
                    c.p_value(row),
                    c.welch_p(row),
                    c.seeds(row),
                )
            )
    spider = {r["alpha"]: r for r in ctx.published("spider_alpha_sweep")}
    own = {row.alpha: row for row in ctx.rows(experiment, model, "s0", "spider")}
    for alpha in dict.fromkeys([*spider, *own]):
        line, found = spider.get(alpha), own.get(alpha)
        seen.append(found)
        published = [MISSING, MISSING, MISSING, MISSING]
        if line:
            before_after = float(line["baseline_pass1"]), float(line["tuned_pass1"])
            change = number(100 * (before_after[1] - before_after[0]), sign=True)
            published = [number(100 * before_after[1]), change, MISSING, "1"]
        measured = (
            c.accuracy(found),
            c.delta(found),
            c.interval(found),
            c.p_value(found),
            c.welch_p(found),
            c.seeds(found),
        )
        lines.append((task_name("spider"), alpha, *published, *measured))
    tiny = [r for r in ctx.records(experiment) if r.model in EMBEDDED and r.method == "s0"]
    for embedded in ctx.aggregate(tiny):
        seen.append(embedded)
        measured = (
            c.accuracy(embedded),
            c.delta(embedded),
            c.interval(embedded),
            c.p_value(embedded),
            c.welch_p(embedded),
            c.seeds(embedded),
        )
        lines.append((f"{task_name(embedded.task)} ({embedded.model})", embedded.alpha, *([MISSING] * 4), *measured))
    heads = ("published %", "published Δ", "published seeds' Welch p", "published seeds")
    measured_heads = ("reproduced %", "reproduced Δ", "95% CI", "p", "Welch p", "reproduced seeds")
    table = Table(
        "Beyond code: S0 on mathematics and text-to-SQL",
        ("task", "alpha", *heads, *measured_heads),
        tuple(lines),
        (
            "Welch's p of the published runs is recomputed here from their per-seed figures.",
            *remarks,
            *c.row_notes(seen),
        ),
        frozenset(range(1, 12)),
    )
    return Built({"cross_domain": table}, macros=macros)
