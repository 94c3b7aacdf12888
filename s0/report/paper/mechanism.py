"""Figures 1 and 4: methods on two architectures, and where newly solved completions diverge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from s0 import stats
from s0.analysis.divergence import Divergence, Flip, cdf, flips, summarise
from s0.report.aggregate import Row
from s0.report.formats import MISSING, Table, number, p_text
from s0.report.paper.comparisons import EMBEDDED_NOTE
from s0.report.paper.context import NOT_RUN, Built, Context, method_name, model_name
from s0.report.paper.curves import not_run
from s0.report.plots import COLOURS, colour, new_figure
from s0.stats import MeanStd
from s0.storage.records import Record
from s0.tiny.standins import STAND_IN

SHADES = {"tiny_gdn": COLOURS["s0"], "tiny_mamba2": COLOURS["lora"], "qwen35_4b": "#009E73", "falcon_h1_7b": "#D55E00"}


def stars(p: float) -> str:
    """Conventional significance marks; "n.s." above 0.05, empty where there is no test."""
    if np.isnan(p):
        return ""
    return next((mark for level, mark in ((1e-3, "***"), (1e-2, "**"), (0.05, "*")) if p < level), "n.s.")


def _bars(ax: Any, groups: Sequence[tuple[str, Sequence[tuple[str, MeanStd]], float]], ylabel: str) -> None:
    """Groups of bars with std; a bracket with the p-value's mark spans the first and second method of a group."""
    top = 0.0
    shown: set[str] = set()
    for g, (_, bars, p) in enumerate(groups):
        width = 0.8 / max(len(bars), 1)
        centres, tips = [], []
        for j, (label, value) in enumerate(bars):
            x = g + (j - (len(bars) - 1) / 2) * width
            error = value.std if value.std > 0 else 0.0
            ax.bar(x, value.mean, width * 0.9, yerr=error or None, capsize=2, color=colour(label),
                   label=None if label in shown else method_name(label), error_kw={"linewidth": 0.8})  # fmt: skip
            shown.add(label)
            centres.append(x)
            tips.append(value.mean + error)
        methods = [i for i, (label, _) in enumerate(bars) if label != "baseline"]
        if len(methods) >= 2 and stars(p):
            a, b = methods[:2]
            y = max(tips) + 4
            ax.plot(
                [centres[a], centres[a], centres[b], centres[b]],
                [y, y + 1.5, y + 1.5, y],
                color="#333333",
                linewidth=0.8,
            )
            ax.text((centres[a] + centres[b]) / 2, y + 2, stars(p), ha="center", va="bottom", fontsize=7)
            tips.append(y + 8)
        top = max(top, *tips)
    ax.set_xticks(range(len(groups)), [name for name, _, _ in groups], fontsize=7)
    ax.set_ylim(0, top * 1.06)
    ax.set_ylabel(ylabel, fontsize=8)
    ax.tick_params(axis="y", labelsize=7)


def _published_bars(ctx: Context, model: str, labels: Sequence[str]) -> list[tuple[str, MeanStd]]:
    bars = []
    for label in labels:
        row = ctx.published_row("summary", model=model, task="humaneval", method=label)
        if row and row["accuracy_pct"]:
            std = float(row["accuracy_std"]) if row["accuracy_std"] else float("nan")
            bars.append((label, MeanStd(float(row["accuracy_pct"]), std, int(row["n"]))))
    return bars


def _published_p(ctx: Context, model: str) -> float:
    """Welch's p of S0 against LoRA rank 24 from published figures (per seed where public)."""
    s0 = ctx.published_row("summary", model=model, task="humaneval", method="s0")
    lora = ctx.published_row("summary", model=model, task="humaneval", method="lora_r24")
    assert s0 is not None
    assert lora is not None
    if lora["delta_std"]:
        of_lora = stats.mean_std(ctx.published_values("humaneval_lora_per_seed", "delta_pp", rank="24"))
        of_s0 = MeanStd(float(s0["delta_pp"]), float(s0["delta_std"]), int(s0["n"]))
    else:
        of_lora = MeanStd(float(lora["accuracy_pct"]), float(lora["accuracy_std"]), int(lora["n"]))
        of_s0 = MeanStd(float(s0["accuracy_pct"]), float(s0["accuracy_std"]), int(s0["n"]))
    test = stats.welch_from_stats(of_s0.mean, of_s0.std, of_s0.n, of_lora.mean, of_lora.std, of_lora.n)
    return float(test.p_value)


def fig1(ctx: Context) -> Built:
    """Methods on two architectures, published and embedded, and where flips diverge."""
    labels = ("s0", "lora_r24", "state_offset")
    groups, tiny_groups = [], []
    for model in ("qwen35_4b", "falcon_h1_7b"):
        groups.append((model_name(model), _published_bars(ctx, model, ("baseline", *labels)), _published_p(ctx, model)))
        tiny = STAND_IN[model]
        rows: dict[str, Row] = {}
        for label in labels:
            found = [r for r in ctx.rows("table1_main", tiny, label) if r.tuned.n]
            if len(found) == 1:
                rows[label] = found[0]
        if rows:
            bars = [("baseline", next(iter(rows.values())).base), *((label, r.tuned) for label, r in rows.items())]
            deltas = [
                [r.delta_pp for r in ctx.of("table1_main", tiny, label=x) if r.status == "ok"] for x in labels[:2]
            ]
            p = float(stats.welch(*deltas).p_value) if len(rows) > 1 else float("nan")
            tiny_groups.append((tiny, bars, p))
    figure, (left, middle, right) = new_figure(8.4, 3.2, columns=3)
    _bars(left, groups, "published pass@1 (%)")
    left.set_title("published", fontsize=8)
    if tiny_groups:
        _bars(middle, tiny_groups, "embedded pass@1 (%)")
        middle.set_title("embedded (minieval)", fontsize=8)
    else:
        not_run(middle, "embedded models")
    _positions(ctx, right)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4, fontsize=7, frameon=False)
    return Built(figures={"fig1": figure})


def _published_flips(ctx: Context) -> tuple[int, int, list[int], float]:
    """Published flips: how many, at character 0, other positions, mean relative position in percent."""
    values = {r["quantity"]: r["value"] for r in ctx.published("divergence")}
    other = [int(v) for v in values["other_positions"].split(";")]
    n, zero = int(values["fail_to_pass_flips"]), int(values["diverge_at_char_0"])
    return n, zero, other, float(values["mean_relative_position_pct"])


def _positions(ctx: Context, ax: Any) -> None:
    """Share of flips by first diverging character."""
    edges = [0, 1, 10, 20, 30, 40, 10**9]
    names = ["0", "1-9", "10-19", "20-29", "30-39", "40+"]
    n, zero, other, _ = _published_flips(ctx)
    series = [("published", [0] * zero + other, "#777777", n)]
    for m in STAND_IN.values():
        found = _flips(ctx, m)
        if found:
            series.append((m, [f.position for f in found], SHADES.get(m, "#56B4E9"), len(found)))
    width = 0.8 / len(series)
    for j, (name, positions, shade, total) in enumerate(series):
        share = np.histogram(positions, edges)[0] / total * 100
        x = np.arange(len(names)) + (j - (len(series) - 1) / 2) * width
        ax.bar(x, share, width * 0.9, color=shade, label=f"{name} (n={total})")
    ax.set_xticks(range(len(names)), names, fontsize=7)
    ax.tick_params(axis="y", labelsize=7)
    ax.set_xlabel("first diverging character", fontsize=8)
    ax.set_ylabel("FAIL→PASS flips (%)", fontsize=8)
    ax.set_title("where flips diverge", fontsize=8)
    ax.legend(fontsize=6.5, frameon=False)


def _flips(ctx: Context, model: str) -> list[Flip]:
    return flips(_flip_records(ctx, model))


def _flip_records(ctx: Context, model: str) -> list[Record]:
    """Records of S0: those run for the figure, else those of the main table; none where they hold several settings."""
    for experiment in ("fig4_divergence", "table1_main"):
        own = ctx.of(experiment, model, label="s0")
        if own:
            return own if len(ctx.aggregate(own)) == 1 else []
    return []


def _divergence_cells(d: Divergence) -> tuple[str, ...]:
    if not d.n_flips:
        return ("0", *([MISSING] * 5))
    return (
        str(d.n_flips),
        f"{d.n_at_zero} ({100 * d.n_at_zero / d.n_flips:.0f} %)",
        number(100 * d.mean_relative, 2),
        number(100 * d.median_relative, 2),
        f"{d.n_problems_first_half} of {d.n_problems}",
        p_text(d.sign_p),
    )


def fig4(ctx: Context) -> Built:
    """First diverging character and relative position of FAIL -> PASS flips."""
    n, zero, _, mean = _published_flips(ctx)
    values = {r["quantity"]: r["value"] for r in ctx.published("divergence")}
    share = f"{zero} ({100 * zero / n:.0f} %)"
    median = number(float(values["median_relative_position_pct"]), 2)
    upper = f"<{float(values['sign_test_p_upper']):.0e}"
    lines: list[tuple[str, ...]] = [
        (model_name("qwen35_4b"), "published", str(n), share, number(mean, 2), median, f"{n} of {n}", upper)
    ]
    figure, (ax,) = new_figure(4.6, 3.0)
    ax.axvline(mean, color="#777777", linestyle="--", linewidth=1, label=f"published mean ({mean:g} %, n={n})")
    macros = {}
    for model, tiny in list(STAND_IN.items())[:2]:
        for m, kind in ((model, "reproduced"), (tiny, "embedded")):
            found = _flips(ctx, m)
            if not _flip_records(ctx, m):
                lines.append((model_name(m), kind, *([NOT_RUN] * 6)))
                continue
            lines.append((model_name(m), kind, *_divergence_cells(summarise(found))))
            x, y = cdf(found)
            if x:
                ax.step([0, *(100 * v for v in x), 100], [0, *y, 1], where="post", label=f"{kind}: {model_name(m)} (n={len(x)})",
                        color=SHADES.get(m))  # fmt: skip
    for m, word in (("tiny_gdn", "Gdn"), ("tiny_mamba2", "Mamba")):
        d = summarise(_flips(ctx, m))
        known = d.n_flips > 0
        macros[f"repTiny{word}FlipsAtZero"] = f"{d.n_at_zero} of {d.n_flips}" if known else NOT_RUN
        macros[f"repTiny{word}FlipMean"] = number(100 * d.mean_relative, 2) if known else NOT_RUN
    macros["pubFlipsAtZero"], macros["pubFlipMean"] = f"{zero} of {n}", number(mean, 2)
    ax.set_xlabel("relative position of first difference (% of completion)")
    ax.set_ylabel("cumulative share of flips")
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    ax.set_xlim(-0.1, 100)
    ax.set_ylim(0, 1.03)
    ax.legend(fontsize=7, frameon=False, loc="lower right")
    table = Table(
        "FAIL→PASS flips: where the tuned completion leaves the base model's",
        ("model", "", "flips", "at character 0", "mean %", "median %", "problems, first half", "sign test p"),
        tuple(lines),
        (
            "Position relative to the tuned completion's length. Sign test (exact, one-sided) over problems: do flips "
            f"diverge in the first half? Each problem counts once, however many seeds flip it. {EMBEDDED_NOTE}",
        ),
        frozenset(range(2, 8)),
    )
    return Built({"fig4_divergence": table}, {"fig4_divergence": figure}, macros)
