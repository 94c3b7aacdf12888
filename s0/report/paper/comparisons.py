"""Tables 1-3 and 5: methods against each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from s0 import stats
from s0.report.aggregate import Row, method_label, newest_per_seed, scores
from s0.report.formats import MISSING, Table, number, p_text, spread
from s0.report.paper import columns as c
from s0.report.paper import sentences
from s0.report.paper.context import NOT_RUN, Built, Context, method_name, model_name
from s0.report.series import layer_ablation, method_setting
from s0.stats import Interval, MeanStd
from s0.storage.records import Record
from s0.tiny.standins import EMBEDDED, STAND_IN

EMBEDDED_NOTE = "Embedded: the tiny stand-in on minieval; it repeats the protocol, not the published numbers."


def _pairs(ctx: Context, experiment: str, model: str, label: str) -> list[tuple[Row | None, Row | None]]:
    """(reproduced, embedded) rows of one published line; more than one where records hold several settings."""
    real = ctx.rows(experiment, model, label)
    tiny = ctx.rows(experiment, STAND_IN[model], label) if model in STAND_IN else []
    n = max(len(real), len(tiny), 1)
    return [(real[i] if i < len(real) else None, tiny[i] if i < len(tiny) else None) for i in range(n)]


def labels_of(records: Iterable[Record], known: Sequence[str]) -> list[str]:
    """Published labels first, then those only the records have."""
    found = dict.fromkeys(method_label(r) for r in records)
    return [*known, *(label for label in found if label not in known and label != "none")]


def _name(label: str, row: Row | None) -> str:
    return method_name(row.label if row else label)


def table1(ctx: Context) -> Built:
    """HumanEval main results on both architectures."""
    experiment = "table1_main"
    lines, seen = [], []
    built = Built()
    for model, known in (
        ("qwen35_4b", ("s0", "lora_r24", "state_offset")),
        ("falcon_h1_7b", ("s0", "lora_r24")),
    ):
        members = [*ctx.of(experiment, model), *ctx.of(experiment, STAND_IN[model])]
        base = ctx.published_row("summary", model=model, task="humaneval", method="baseline")
        first = _pairs(ctx, experiment, model, "s0")[0]
        lines.append(
            (
                *(model_name(model), "baseline", c.published_spread(base, "accuracy_pct", "accuracy_std"), MISSING),
                *(c.base(first[0]), MISSING, c.base(first[1]), MISSING, MISSING, MISSING, MISSING, MISSING),
            )
        )
        for label in labels_of(members, known):
            row = ctx.published_row("summary", model=model, task="humaneval", method=label)
            for real, tiny in _pairs(ctx, experiment, model, label):
                seen += [real, tiny]
                lines.append(
                    (
                        model_name(model),
                        _name(label, tiny or real),
                        c.published_spread(row, "accuracy_pct", "accuracy_std"),
                        c.published_spread(row, "delta_pp", "delta_std", sign=True),
                        c.accuracy(real),
                        c.delta(real),
                        c.accuracy(tiny),
                        c.delta(tiny),
                        c.interval(tiny),
                        c.control(tiny),
                        c.p_value(tiny),
                        c.seeds(tiny),
                    )
                )
        built.macros |= _macros(ctx, experiment, model)
    names = (
        "model",
        "method",
        "published %",
        "published Δ",
        "reproduced %",
        "reproduced Δ",
        "embedded %",
        "embedded Δ",
    )
    table = Table(
        "HumanEval, greedy pass@1 on the held-out problems: published, reproduced, and the embedded stand-ins",
        (*names, "95% CI", "control Δ", "p", "seeds"),
        tuple(lines),
        (
            f"{EMBEDDED_NOTE} Stand-ins: {', '.join(f'{model_name(k)} by {v}' for k, v in STAND_IN.items())}. "
            "Δ in percentage points, mean ± std (ddof 1) over seeds. Last four columns: embedded. "
            "Control: a random state with the same norm per layer.",
            *c.row_notes(seen),
        ),
        frozenset(range(2, 12)),
    )
    built.tables["table1_main"] = table
    return built


#: model -> the part of a macro name that stands for it
_MACRO = {"qwen35_4b": "Qwen", "falcon_h1_7b": "Falcon", "tiny_gdn": "TinyGdn", "tiny_mamba2": "TinyMamba"}


def _macros(ctx: Context, experiment: str, model: str) -> dict[str, str]:
    macros = {}
    for label, name in (("s0", "Szero"), ("lora_r24", "Lora"), ("state_offset", "Offset")):
        row = ctx.published_row("summary", model=model, task="humaneval", method=label)
        macros[f"pub{_MACRO[model]}{name}Delta"] = c.published_spread(row, "delta_pp", "delta_std", sign=True)
        macros[f"pub{_MACRO[model]}{name}"] = c.published_spread(row, "accuracy_pct", "accuracy_std")
        for m in (model, STAND_IN[model]):
            found = ctx.rows(experiment, m, label)
            # several settings of one method have no one number for the text
            single = found[0] if len(found) == 1 else None
            macros[f"rep{_MACRO[m]}{name}Delta"] = c.delta(single)
            macros[f"rep{_MACRO[m]}{name}"] = c.accuracy(single)
            if label == "s0":
                macros[f"rep{_MACRO[m]}Base"] = c.base(single)
                macros[f"rep{_MACRO[m]}Control"] = c.control(single)
                macros[f"rep{_MACRO[m]}Interval"] = c.interval(single)
                macros[f"rep{_MACRO[m]}Seeds"] = c.seeds(single)
    base = ctx.published_row("summary", model=model, task="humaneval", method="baseline")
    macros[f"pub{_MACRO[model]}Base"] = c.published_spread(base, "accuracy_pct", "accuracy_std")
    macros[f"saysPub{_MACRO[model]}"] = published_sentence(ctx, model)
    for m in (model, STAND_IN[model]):
        macros[f"says{_MACRO[m]}"] = measured_sentence(ctx, experiment, m)
    return macros


#: method labels of the main table that the text speaks of
_TOLD = ("s0", "lora_r24", "state_offset")


def published_sentence(ctx: Context, model: str) -> str:
    """What the published summary says of each method, directions by Student's interval over its seeds."""
    base = ctx.published_row("summary", model=model, task="humaneval", method="baseline")
    parts = []
    for label in _TOLD:
        row = ctx.published_row("summary", model=model, task="humaneval", method=label)
        if row is None:
            continue
        if not row["delta_pp"]:
            accuracy = c.published_spread(row, "accuracy_pct", "accuracy_std")
            parts.append(f"{method_name(label)} reaches {accuracy} %")
            continue
        std = float(row["delta_std"]) if row["delta_std"] else float("nan")
        delta = MeanStd(float(row["delta_pp"]), std, int(row["n"]))
        parts.append(sentences.effect(method_name(label), delta, sentences.seed_interval(delta), shown=False))
    start = c.published_spread(base, "accuracy_pct", "accuracy_std")
    return f"Published, {model_name(model)} (base model {start} %): {', '.join(parts)}."


def measured_sentence(ctx: Context, experiment: str, model: str) -> str:
    """What the records say of each method, of S0 against LoRA, and of the random-state control."""
    found = {label: ctx.rows(experiment, model, label) for label in _TOLD}
    if not any(found.values()):
        return f"{model_name(model)}: {NOT_RUN}."
    single = {label: rows[0] for label, rows in found.items() if len(rows) == 1}
    base = c.base(next(iter(single.values()), None))
    parts = [
        f"{method_name(label)} with several settings"
        if len(rows) > 1
        else sentences.cell(method_name(label), single.get(label))
        for label, rows in found.items()
    ]
    text = f"{model_name(model)} (base model {base} %): {', '.join(parts)}."
    if "s0" in single and "lora_r24" in single:
        a, b = (ctx.of(experiment, model, label=label) for label in ("s0", "lora_r24"))
        text += f" {sentences.comparison('S0', method_name('lora_r24'), tuned_difference(a, b))}."
    return f"{text} {sentences.control_sentence(single.get('s0'))}"


def tuned_difference(a: Sequence[Record], b: Sequence[Record]) -> Interval | None:
    """Accuracy of `a` minus that of `b` over seeds and problems, percentage points: seeds both were run with, problems
    in one order. None where there are no such seeds or they saw different problems."""
    first, second = (
        {r.seed: scores(r.tuned) for r in newest_per_seed([r for r in records if r.status == "ok"]) if r.tuned}
        for records in (a, b)
    )
    seeds = sorted(set(first) & set(second))
    problems = {frozenset(values) for own in (first, second) for seed, values in own.items() if seed in seeds}
    if len(problems) != 1:
        return None
    order = sorted(next(iter(problems)))
    matrix = [[first[seed][p] - second[seed][p] for p in order] for seed in seeds]
    return stats.crossed(np.asarray(matrix)).interval.times(100)


def _deltas(records: Sequence[Record]) -> dict[int, float]:
    """seed -> delta (pp) of finished records."""
    return {r.seed: r.delta_pp for r in records if r.status == "ok" and r.tuned is not None and r.baseline is not None}


def table2(ctx: Context) -> Built:
    """LoRA at matched parameter budgets against S0."""
    experiment, model = "table2_matched_lora", "qwen35_4b"
    members = [*ctx.of(experiment, model), *ctx.of(experiment, STAND_IN[model])]
    lines, seen, remarks = [], [], []
    for label in labels_of(members, ("lora_r24", "lora_r48", "lora_r64", "s0")):
        params = ctx.published_row("parameters", model=model, method=label)
        row = ctx.published_row("summary", model=model, task="humaneval", method=label)
        rank = label.removeprefix("lora_r")
        per_seed = ctx.published_values("humaneval_lora_per_seed", "delta_pp", rank=rank)
        published = c.published_spread(row, "delta_pp", "delta_std", sign=True)
        negative = f"{sum(d < 0 for d in per_seed)} of {len(per_seed)}" if per_seed else MISSING
        remarks += c.rounding_notes(method_name(label), row, per_seed)
        cells = []
        for m in (model, STAND_IN[model]):
            own = [r for r in members if r.model == m and method_label(r) == label]
            found = ctx.aggregate(own)
            seen += found
            deltas = _deltas(own) if len(found) == 1 else {}
            one = found[0] if len(found) == 1 else None
            trainable = max((int(r.method_info.get("trainable_params", 0)) for r in own), default=0)
            cells += [
                f"{trainable:,}" if own else NOT_RUN,
                c.delta(one) if len(found) < 2 else "several settings",
                f"{sum(d < 0 for d in deltas.values())} of {len(deltas)}" if deltas else NOT_RUN,
            ]
        budget = f"{params['trainable_m']} M" if params else MISSING
        lines.append((method_name(label), budget, published, negative, *cells))
    heads = [f"{kind} {what}" for kind in ("reproduced", "embedded") for what in ("params", "Δ", "negative")]
    table = Table(
        "Parameter-matched LoRA against S0: delta in percentage points and seeds with a negative one",
        ("method", "published params", "published Δ", "published negative", *heads),
        tuple(lines),
        (EMBEDDED_NOTE, *remarks, *c.row_notes(seen)),
        frozenset(range(1, 10)),
    )
    return Built({"table2_matched_lora": table})


def table3(ctx: Context) -> Built:
    """S0 against state-offset on the same seeds, paired."""
    experiment, model = "table3_offset", "qwen35_4b"
    s0 = ctx.published_row("summary", model=model, task="humaneval", method="s0_paired_rerun")
    offset = ctx.published_row("summary", model=model, task="humaneval", method="state_offset")
    published = {
        "S0": c.published_spread(s0, "delta_pp", "delta_std", sign=True),
        "state-offset": c.published_spread(offset, "delta_pp", "delta_std", sign=True),
    }
    by_model: dict[str, dict[str, str]] = {}
    seen: list[Row | None] = []
    models = (model, STAND_IN[model], STAND_IN["falcon_h1_7b"])
    for m in models:
        a, b = ctx.of(experiment, m, label="s0"), ctx.of(experiment, m, label="state_offset")
        cells = [ctx.aggregate(x) for x in (a, b)]
        # several settings of one method are not one sample
        rows = [found[0] if len(found) == 1 else None for found in cells]
        seen += rows
        own, other = (_deltas(x) if row else {} for x, row in zip((a, b), rows, strict=True))
        pairs = sorted(set(own) & set(other))
        difference = stats.mean_std([other[s] - own[s] for s in pairs])
        test = stats.paired_t([other[s] for s in pairs], [own[s] for s in pairs])
        by_model[m] = {
            "S0": c.delta(rows[0]) if len(cells[0]) < 2 else "several settings",
            "state-offset": c.delta(rows[1]) if len(cells[1]) < 2 else "several settings",
            "offset - S0": spread(difference, sign=True) if pairs else NOT_RUN,
            "paired p": p_text(test.p_value) if pairs else NOT_RUN,
            "pairs": str(len(pairs)) if pairs else NOT_RUN,
        }
    lines = [(name, published.get(name, MISSING), *(by_model[m][name] for m in by_model)) for name in by_model[model]]
    table = Table(
        "State-based methods on the same ten seeds: delta in percentage points and the paired t-test",
        ("", "published", "reproduced", *(f"embedded {m}" for m in models[1:])),
        tuple(lines),
        (
            f"{EMBEDDED_NOTE} Pairs: seeds run with both methods; paired p is over seeds only. The pairs of the published "
            "test are not public.",
            *c.mixed_notes(seen),
        ),
        frozenset({1, 2, 3, 4}),
    )
    return Built({"table3_offset": table})


def table5(ctx: Context) -> Built:
    """Layer groups."""
    experiment, model = "table5_layers", "qwen35_4b"
    published = {r["layers"].split()[0]: r for r in ctx.published("layer_ablation")}
    measured: dict[str, dict[str, tuple[str, Row, int]]] = {}
    for m in (model, STAND_IN[model]):
        own = ctx.of(experiment, m, method="s0")
        measured[m] = {name: (name, row, n) for name, row, n in layer_ablation(own)}
    stand_in = measured[STAND_IN[model]]
    adjusted = dict(zip(stand_in, c.sweep_p([row for _, row, _ in stand_in.values()]), strict=True))
    lines, seen = [], []
    for name in dict.fromkeys([*published, *(n for m in measured.values() for n in m)]):
        line = published.get(name)
        cells = [line["layers"] if line else name, line["params_m"] + " M" if line else MISSING]
        cells += [c.published_spread(line, "delta_pp", "", sign=True), line["degraded"] if line else MISSING]
        for group in measured.values():
            found = group.get(name)
            seen.append(found[1] if found else None)
            cells += [c.delta(found[1]) if found else NOT_RUN, c.broken(found[1]) if found else NOT_RUN]
        tiny = stand_in.get(name)
        lines.append((*cells, adjusted.get(name, NOT_RUN), f"{tiny[2]:,}" if tiny else NOT_RUN))
    heads = ("reproduced Δ", "reproduced broken", "embedded Δ", "embedded broken", "embedded p", "embedded params")
    table = Table(
        "S0 on groups of recurrent layers",
        ("layers", "published params", "published Δ", "published broken", *heads),
        tuple(lines),
        (
            f"{EMBEDDED_NOTE} Broken: problems the base model solved and the tuned one does not. {c.SWEEP_NOTE}",
            *c.row_notes(seen),
        ),
        frozenset(range(1, 10)),
    )
    return Built({"table5_layers": table})


def prefix_control(ctx: Context) -> Built:
    """Prefix tuning on a pure Transformer: every configuration that was run."""
    experiment, model = "prefix_control", "qwen25_3b"
    row = ctx.published_row("summary", model=model, task="humaneval", method="prefix")
    n = row["n"] if row else MISSING
    own: list[Record] = []
    lines = [(model_name(model), "mean", "published", c.published_spread(row, "delta_pp", "delta_std", sign=True), n)]
    deltas: dict[str, list[float]] = {model: [], STAND_IN[model]: []}
    seen = []
    for m, values in deltas.items():
        for r in sorted(
            ctx.of(experiment, m, method="prefix"),
            key=lambda r: (float(method_setting(r, "lr") or 0), r.seed),
        ):
            kind = "embedded" if m in EMBEDDED else "reproduced"
            setting = f"lr {method_setting(r, 'lr'):g}" if method_setting(r, "lr") else method_label(r)
            value = number(r.delta_pp, sign=True) if r.status == "ok" else r.status
            lines.append((model_name(m), f"{setting}, seed {r.seed}", kind, value, "1"))
            if r.status == "ok":
                values.append(r.delta_pp)
                own.append(r)
        found = stats.mean_std(values)
        kind = "embedded" if m in EMBEDDED else "reproduced"
        cell = spread(found, sign=True) if found.n else NOT_RUN
        lines.append((model_name(m), "mean", kind, cell, str(found.n) if found.n else NOT_RUN))
        seen.append(cell)
    table = Table(
        "Control: prefix tuning on a model without recurrent state",
        ("model", "configuration", "", "Δ pp", "runs"),
        tuple(lines),
        (EMBEDDED_NOTE, *c.mixed_problems(own)),
        frozenset({3, 4}),
    )
    macros = {"pubPrefixDelta": lines[0][3], "repPrefixDelta": seen[0], "repTinyPrefixDelta": seen[1]}
    macros["saysPubPrefix"] = sentences.published_prefix(float(row["delta_pp"]), int(row["n"])) if row else MISSING
    for m, word in ((model, "Prefix"), (STAND_IN[model], "TinyPrefix")):
        macros[f"says{word}"] = sentences.negative_control(model_name(m), deltas[m])
    return Built({"prefix_control": table}, macros=macros)
