"""Tables 6-10: one line per seed, and pass@k."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from s0 import stats
from s0.report import breakdown
from s0.report.aggregate import method_label
from s0.report.formats import MISSING, Table, number, spread
from s0.report.paper.comparisons import EMBEDDED_NOTE, labels_of
from s0.report.paper.context import NOT_RUN, Built, Context, method_name, model_name
from s0.storage.records import Evaluation, Record
from s0.tiny.standins import STAND_IN

KS = (1, 5, 10)


def _by_seed(records: Sequence[Record]) -> dict[int, Record]:
    """Newest record per seed."""
    return {r.seed: r for r in sorted(records, key=lambda r: r.created)}


def _seed_cells(record: Record | None) -> tuple[str, str, str]:
    if record is None:
        return NOT_RUN, NOT_RUN, NOT_RUN
    if record.status != "ok" or record.tuned is None:
        return record.status, MISSING, MISSING
    return number(100 * record.tuned.accuracy), number(record.delta_pp, sign=True), str(len(record.flips()[1]))


def _table(
    title: str, published: Mapping[int, tuple[str, ...]], heads: Sequence[str], real: list[Record], tiny: list[Record]
) -> Table:
    """One line per seed, published seeds first in published order, then those only the records have."""
    own = _by_seed(real), _by_seed(tiny)
    lines = [
        (
            str(seed),
            *published.get(seed, (MISSING,) * len(heads)),
            *_seed_cells(own[0].get(seed)),
            *_seed_cells(own[1].get(seed)),
        )
        for seed in dict.fromkeys([*published, *sorted(own[0]), *sorted(own[1])])
    ]
    names = [f"{kind} {what}" for kind in ("reproduced", "embedded") for what in ("%", "Δ", "broken")]
    columns = ("seed", *heads, *names)
    return Table(title, columns, tuple(lines), (EMBEDDED_NOTE,), frozenset(range(len(columns))))


def _one_setting(ctx: Context, experiments: Sequence[str], model: str, label: str) -> list[Record]:
    """Records of the first of `experiments` that holds this cell; none where it holds several settings of it."""
    for experiment in experiments:
        own = ctx.of(experiment, model, label=label)
        if own:
            return own if len(ctx.aggregate(own)) == 1 else []
    return []


def _lora(ctx: Context, rank: str, title: str) -> Table:
    published = {}
    for row in ctx.published("humaneval_lora_per_seed"):
        if row["rank"] == rank:
            published[int(row["seed"])] = (number(float(row["delta_pp"]), sign=True), row["degraded"] or MISSING)
    experiments = ("table1_main", "table2_matched_lora") if rank == "24" else ("table2_matched_lora",)
    real, tiny = (_one_setting(ctx, experiments, m, f"lora_r{rank}") for m in ("qwen35_4b", STAND_IN["qwen35_4b"]))
    return _table(title, published, ("published Δ", "published broken"), real, tiny)


def table6(ctx: Context) -> Built:
    """LoRA rank 24, per seed."""
    return Built({"table6_lora_seeds": _lora(ctx, "24", "LoRA rank 24 on HumanEval, per seed")})


def table7(ctx: Context) -> Built:
    """S0 on Falcon-H1, per seed."""
    published = {
        int(r["seed"]): (r["tuned_pct"], number(float(r["delta_pp"]), sign=True))
        for r in ctx.published("falcon_per_seed")
    }
    real, tiny = (_one_setting(ctx, ("table1_main",), m, "s0") for m in ("falcon_h1_7b", STAND_IN["falcon_h1_7b"]))
    title = f"S0 on {model_name('falcon_h1_7b')}, per seed"
    return Built({"table7_falcon_seeds": _table(title, published, ("published %", "published Δ"), real, tiny)})


def table8(ctx: Context) -> Built:
    """LoRA ranks 48 and 64, per seed."""
    return Built(
        {
            f"table8_lora_r{rank}_seeds": _lora(ctx, rank, f"LoRA rank {rank} on HumanEval, per seed")
            for rank in ("48", "64")
        }
    )


def pass_at(evaluation: Evaluation | None, k: int) -> float | None:
    """Mean unbiased pass@k in percent; None where fewer than k samples were drawn."""
    value = math.nan if evaluation is None else breakdown.pass_at(evaluation, k)
    return None if math.isnan(value) else value


def _sampled(records: Sequence[Record], baseline: bool) -> dict[int, tuple[float | None, ...]]:
    """seed -> pass@k for k in KS, of finished records evaluated by sampling."""
    out = {}
    for seed, r in _by_seed(records).items():
        evaluation = r.baseline if baseline else r.tuned
        if r.status == "ok" and evaluation is not None and evaluation.protocol == "sampled":
            out[seed] = tuple(pass_at(evaluation, k) for k in KS)
    return out


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return spread(stats.mean_std(known)) if known else NOT_RUN


def pass_at_k(ctx: Context) -> Built:
    """Tables 9 and 10: pass@k by sampling, means and per seed."""
    experiment, model = "table9_pass_at_k", "qwen35_4b"
    published: dict[str, dict[int, tuple[float, ...]]] = {}
    for row in ctx.published("humaneval_pass_at_k"):
        by_k = tuple(float(row[f"pass{k}_pct"]) for k in KS)
        published.setdefault(row["method"], {})[int(row["seed"])] = by_k
    members = [*ctx.of(experiment, model), *ctx.of(experiment, STAND_IN[model])]
    means, seeds = [], []
    macros = {}
    for label in ["baseline", *labels_of(members, ("lora_r24", "s0"))]:
        name = "baseline" if label == "baseline" else method_name(label)
        known = published.get(label, {})
        measured = []
        for m in (model, STAND_IN[model]):
            own = [r for r in members if r.model == m]
            if label != "baseline":
                own = [r for r in own if method_label(r) == label]
                own = own if len(ctx.aggregate(own)) == 1 else []
            measured.append(_sampled(own, label == "baseline"))
        cells = []
        for i in range(len(KS)):
            values = [v[i] for v in known.values()]
            cells += [spread(stats.mean_std(values)) if values else MISSING]
            cells += [_mean([v[i] for v in found.values()]) for found in measured]
        means.append((name, *cells))
        for seed in dict.fromkeys([*known, *sorted({s for found in measured for s in found})]):
            line = [number(v) for v in known[seed]] if seed in known else [MISSING] * len(KS)
            for found in measured:
                line += [number(v) if v is not None else NOT_RUN for v in found.get(seed, (None,) * len(KS))]
            seeds.append((name, str(seed), *line))
        if label in ("baseline", "s0", "lora_r24"):
            word = {"baseline": "Base", "s0": "Szero", "lora_r24": "Lora"}[label]
            macros[f"pub{word}PassTen"], macros[f"repTiny{word}PassTen"] = cells[6], cells[8]
    kinds = ("published", "reproduced", "embedded")
    note = f"Sampled at T = 0.7, top-p 0.95; unbiased estimator, mean ± std over seeds. {EMBEDDED_NOTE}"
    mean_table = Table(
        "pass@k on HumanEval",
        ("method", *(f"pass@{k} {kind}" for k in KS for kind in kinds)),
        tuple(means),
        (note,),
        frozenset(range(1, 10)),
    )
    seed_table = Table(
        "pass@k on HumanEval, per seed",
        ("method", "seed", *(f"{kind} pass@{k}" for kind in kinds for k in KS)),
        tuple(seeds),
        (note,),
        frozenset(range(1, 11)),
    )
    return Built({"table9_pass_at_k": mean_table, "table10_pass_at_k_seeds": seed_table}, macros=macros)
