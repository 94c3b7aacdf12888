"""Persistence, probe and alpha prediction: measured inside the model (see s0.analysis)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from s0 import stats
from s0.report.formats import MISSING, Table, number, spread
from s0.report.paper import sentences
from s0.report.paper.comparisons import EMBEDDED_NOTE
from s0.report.paper.context import NOT_RUN, Built, Context, model_name
from s0.report.paper.curves import not_run
from s0.report.paper.mechanism import SHADES
from s0.report.plots import COLOURS, new_figure
from s0.report.series import alpha_curve, best_alpha
from s0.stats import MeanStd
from s0.storage.results import AnalysisResult
from s0.tiny.standins import STAND_IN


def _by_model(results: Sequence[AnalysisResult]) -> dict[str, list[AnalysisResult]]:
    groups: dict[str, list[AnalysisResult]] = {}
    for r in results:
        groups.setdefault(r.model, []).append(r)
    return groups


def _mean(results: Sequence[AnalysisResult], key: str, factor: float = 1.0) -> MeanStd:
    return stats.mean_std([factor * r.values[key] for r in results if r.values.get(key) is not None])


def persistence(ctx: Context) -> Built:
    """Decay of the state's effect along the prompt, and what the gates predict."""
    groups = _by_model(ctx.analyses("persistence", "persistence"))
    end = ctx.mechanism("persistence_end_ratio_pct")
    lines: list[tuple[str, ...]] = [(model_name("qwen35_4b"), "published", number(end, 2), MISSING, MISSING, MISSING)]
    figure, (ax,) = new_figure(4.8, 3.0)
    macros = {"pubPersistenceEnd": number(end, 2), "saysPubPersistence": sentences.published_decay(end)}
    for m in dict.fromkeys([*STAND_IN.values(), *groups]):
        if m == "tiny_transformer":
            continue
        own = groups.get(m, [])
        kind = "embedded" if m.startswith("tiny") else "reproduced"
        if not own:
            lines.append((model_name(m), kind, *([NOT_RUN] * 4)))
        else:
            rates = (spread(_mean(own, "rate"), 3), spread(_mean(own, "predicted_rate"), 3))
            lines.append((model_name(m), kind, spread(_mean(own, "end_ratio", 100), 2), *rates, str(len(own))))
            length = min(len(r.values["ratio"]) for r in own)
            shade = SHADES.get(m, "#56B4E9")
            for key, style, what in (("ratio", "-", "measured KL"), ("predicted", ":", "gates alone")):
                curve = np.mean([r.values[key][:length] for r in own], axis=0) * 100
                ax.plot(range(length), np.maximum(curve, 1e-8), style, color=shade, label=f"{model_name(m)}: {what}")
        word = {"tiny_gdn": "Gdn", "tiny_mamba2": "Mamba"}.get(m)
        if word:
            macros[f"saysTiny{word}Persistence"] = sentences.decay(m, [float(r.values["end_ratio"]) for r in own])
            macros[f"repTiny{word}PersistenceEnd"] = spread(_mean(own, "end_ratio", 100), 2) if own else NOT_RUN
            macros[f"repTiny{word}Rate"] = spread(_mean(own, "rate"), 3) if own else NOT_RUN
            macros[f"repTiny{word}PredictedRate"] = spread(_mean(own, "predicted_rate"), 3) if own else NOT_RUN
    ax.axhline(end, color="#777777", linestyle="--", linewidth=1, label=f"published, prompt's end ({end:g} %)")
    ax.set_yscale("log")
    ax.set_ylim(bottom=1e-4)
    ax.set_xlabel("prompt position (tokens)")
    ax.set_ylabel("KL(tuned ∥ zero) / position 0 (%)")
    ax.legend(fontsize=6.5, frameon=False)
    table = Table(
        "Persistence of the learned state along the prompt",
        ("model", "", "KL at prompt's end, % of position 0", "fitted decay / token", "gates predict", "seeds"),
        tuple(lines),
        (
            "Rates: log-linear fit over the prompt. The prediction is the state's energy that the decay gates leave, "
            f"without the delta rule's erasure. {EMBEDDED_NOTE}",
        ),
        frozenset(range(2, 6)),
    )
    return Built({"persistence": table}, {"persistence": figure}, macros)


def probe(ctx: Context) -> Built:
    """Linear probes for "will be solved"."""
    groups = _by_model(ctx.analyses("probe", "probe"))
    published = [number(ctx.mechanism(f"probe_auc_{s}"), 2) for s in ("recurrent", "residual")]
    lines = [(model_name("qwen35_4b"), "published", "best", *published, MISSING)]
    models = list(dict.fromkeys([*list(STAND_IN.values())[:2], *groups]))
    figure, axes = new_figure(3.2 * max(len(models), 1), 2.9, columns=max(len(models), 1))
    macros = {"pubProbeRecurrent": published[0], "pubProbeResidual": published[1]}
    for ax, m in zip(axes, models, strict=False):
        own = groups.get(m, [])
        kind = "embedded" if m.startswith("tiny") else "reproduced"
        means: dict[str, list[MeanStd]] = {"recurrent": [], "residual": []}
        layers = list(own[0].values["recurrent"]) if own else []
        for layer in layers:
            for source, values in means.items():
                scores = [r.values[source][layer]["auc"] for r in own]
                values.append(stats.mean_std([s for s in scores if s is not None]))
            cells = [spread(means[s][-1], 2) for s in means]
            lines.append((model_name(m), kind, layer, *cells, str(own[0].values["n_problems"])))
        if layers:
            for source, style in (("recurrent", COLOURS["s0"]), ("residual", COLOURS["lora"])):
                y = [v.mean for v in means[source]]
                e = [v.std if v.std > 0 else 0 for v in means[source]]
                ax.errorbar(
                    range(len(layers)), y, yerr=e, marker="o", markersize=4, capsize=2, color=style, label=source
                )
            ax.axhline(0.5, color="#777777", linewidth=0.8, linestyle=":")
            ax.set_xticks(range(len(layers)), layers)
            ax.set_ylim(0.3, 1.02)
            ax.set_xlabel("recurrent layer")
            ax.set_ylabel("AUC")
            ax.legend(fontsize=7, frameon=False, loc="lower right")
            ax.set_title(model_name(m), fontsize=8)
        else:
            lines.append((model_name(m), kind, *([NOT_RUN] * 4)))
            not_run(ax, model_name(m))
        if m == "tiny_gdn":
            pairs = [(r.values["best_recurrent"], r.values["best_residual"]) for r in own]
            known = [(float(a), float(b)) for a, b in pairs if a is not None and b is not None]
            macros["saysTinyGdnProbe"] = sentences.probe_order(m, [a for a, _ in known], [b for _, b in known])
            for source in means:
                best = _mean(own, f"best_{source}")
                macros[f"repTinyGdnProbe{source.capitalize()}"] = spread(best, 2) if best.n else NOT_RUN
    table = Table(
        "Probe for 'will be solved': AUC per layer from the recurrent state and from the residual stream",
        ("model", "", "layer", "recurrent state", "residual stream", "problems"),
        tuple(lines),
        (
            "PCA (64) and logistic regression fit on the training folds only, 5-fold cross-validation. The published line "
            f"is the best layer, which is optimistic by that choice. {EMBEDDED_NOTE}",
        ),
        frozenset({3, 4, 5}),
    )
    return Built({"probe": table}, {"probe": figure}, macros)


def alpha_prediction(ctx: Context) -> Built:
    """Best alpha read off the gates against the measured one. Beyond the paper."""
    lines, macros = [], {}
    results = _by_model(ctx.analyses("alpha_prediction", "alpha_prediction"))
    sweeps = {"qwen35_4b": "alpha_sweep_qwen", "falcon_h1_7b": "fig3b_alpha_falcon"}
    for model, sweep in sweeps.items():
        for m in (model, STAND_IN[model]):
            own = results.get(m, [])
            best = best_alpha(alpha_curve(ctx.of(sweep, m, method="s0")))
            measured = NOT_RUN if np.isnan(best) else f"{best:g}"
            cells = [spread(_mean(own, k), d) if own else NOT_RUN for k, d in
                     (("alpha", 2), ("natural_norm", 2), ("state_norm", 2), ("survival", 2))]  # fmt: skip
            lines.append((model_name(m), "embedded" if m.startswith("tiny") else "reproduced", *cells, measured))
            if m.startswith("tiny"):
                word = "Gdn" if m == "tiny_gdn" else "Mamba"
                macros[f"repTiny{word}PredictedAlpha"] = cells[0]
                predicted = [float(r.values["alpha"]) for r in own if r.values.get("alpha") is not None]
                macros[f"saysTiny{word}Alpha"] = sentences.alpha_verdict(m, predicted, best)
    table = Table(
        "Can the best alpha be read off the gates?",
        ("model", "", "predicted alpha", "prompt's own state", "learned state", "survival", "measured best"),
        tuple(lines),
        (
            "Prediction without a fitted constant: alpha = norm of the state the prompt writes / (norm of the learned "
            "state x survival). Measured: the best alpha of the sweep's grid. Beyond the published paper.",
        ),
        frozenset(range(2, 7)),
    )
    return Built({"alpha_prediction": table}, macros=macros)
