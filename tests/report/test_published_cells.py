"""Every published value in a table or in the text is the one in experiments/published/, and none is left out.

The expectations are read from the CSV files here, not by the code that builds the tables. A column or line called
"published" that no expectation covers fails, and so does a published figure that no table shows without a stated reason.
"""

from __future__ import annotations

import csv
import math
import re
import statistics
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from s0.report.paper.build import PaperPaths

PUBLISHED = Path(__file__).parents[2] / "experiments" / "published"
MODELS = {"qwen35_4b": "Qwen3.5-4B", "falcon_h1_7b": "Falcon-H1-7B", "qwen25_3b": "Qwen2.5-3B"}
METHODS = {"s0": "S0", "lora_r24": "LoRA r24", "lora_r48": "LoRA r48", "lora_r64": "LoRA r64", "lora": "LoRA",
           "state_offset": "state-offset", "prefix": "prefix tuning", "baseline": "baseline"}  # fmt: skip
NONE = "–"
#: (file, column) that no table prints, and why
NOT_SHOWN = {
    ("hyperparameters", "source"): "where the paper says it",
    ("gsm8k_per_seed", "*"): "per seed; the tables show mean, spread and Welch's p",
    ("math500_per_seed", "*"): "per seed; the tables show mean, spread and Welch's p",
    ("falcon_per_seed", "baseline_pct"): "one number, in the summary",
    ("spider_alpha_sweep", "*"): "accuracy and delta are shown; the baseline and counts are not",
    ("scaling", "gdn_layers"): "a property of the model",
    ("scaling", "tuned_pct"): "baseline and delta are shown",
    ("layer_ablation", "n_layers"): "the range of layers is shown",
    ("divergence", "other_positions"): "drawn in figure 1",
    ("summary", "n"): "the number of seeds stands in the per-seed tables",
    ("mechanism", "alpha_*"): "in the notes of the alpha sweeps (own test)",
    ("parameters", "falcon_h1_7b"): "table 2 is about Qwen3.5-4B",
}
Cells = dict[tuple[str, ...], dict[str, str]]


def lines(name: str) -> list[dict[str, str]]:
    with open(PUBLISHED / f"{name}.csv", newline="") as f:
        return list(csv.DictReader(f))


def table(layout: PaperPaths, stem: str) -> list[dict[str, str]]:
    with open(layout.paper / "tables" / f"{stem}.csv", newline="") as f:
        return list(csv.DictReader(f))


def pm(mean: str, std: str = "", sign: bool = True) -> str:
    if not mean:
        return NONE
    return f"{float(mean):{'+' if sign else ''}.1f}" + (f" ± {float(std):.1f}" if std else "")


def summary() -> dict[tuple[str, str, str], dict[str, str]]:
    return {(r["model"], r["task"], r["method"]): r for r in lines("summary")}


def by_rank(rank: str) -> list[dict[str, str]]:
    return [r for r in lines("humaneval_lora_per_seed") if r["rank"] == rank]


def welch(a: list[float], b: list[float]) -> str:
    """Two-sided p of Welch's test, by scipy's own, printed like the tables print it."""
    from scipy.stats import ttest_ind

    p = float(ttest_ind(a, b, equal_var=False).pvalue)
    return f"{p:.2g}" if p >= 1e-3 else f"{p:.1e}"


def table1() -> Cells:
    return {
        (MODELS[model], METHODS[method]): {
            "published %": pm(r["accuracy_pct"], r["accuracy_std"], sign=False),
            "published Δ": pm(r["delta_pp"], r["delta_std"]),
        }
        for (model, task, method), r in summary().items()
        if task == "humaneval" and method in ("baseline", "s0", "lora_r24", "state_offset")
    }


def table2() -> Cells:
    out: Cells = {}
    for r in lines("parameters"):
        if r["model"] != "qwen35_4b" or r["method"] == "state_offset":
            continue
        known = summary()["qwen35_4b", "humaneval", r["method"]]
        deltas = [float(d["delta_pp"]) for d in by_rank(r["method"].removeprefix("lora_r"))]
        out[(METHODS[r["method"]],)] = {
            "published params": f"{r['trainable_m']} M",
            "published Δ": pm(known["delta_pp"], known["delta_std"]),
            "published negative": f"{sum(d < 0 for d in deltas)} of {len(deltas)}" if deltas else NONE,
        }
    return out


def table3() -> Cells:
    s0, offset = (summary()["qwen35_4b", "humaneval", m] for m in ("s0_paired_rerun", "state_offset"))
    return {("S0",): {"published": pm(s0["delta_pp"], s0["delta_std"])},
            ("state-offset",): {"published": pm(offset["delta_pp"], offset["delta_std"])}}  # fmt: skip


def table4() -> Cells:
    """Keyed by model too: LoRA's learning rate is 5e-4, and 1e-4 on Falcon alone."""
    scopes: dict[tuple[str, str], list[str]] = {}
    for r in lines("hyperparameters"):
        scopes.setdefault((r["method"], r["field"]), []).append(r["model"])
    out: Cells = {}
    for r in lines("hyperparameters"):
        several = len(scopes[r["method"], r["field"]]) > 1
        model = "others" if r["model"] == "all" and several else MODELS.get(r["model"], r["model"])
        out[METHODS[r["method"]], r["field"], model] = {"published": r["value"]}
    return out


def table5() -> Cells:
    return {(r["layers"],): {"published params": f"{r['params_m']} M", "published Δ": pm(r["delta_pp"]),
                             "published broken": r["degraded"]} for r in lines("layer_ablation")}  # fmt: skip


def lora_seeds(rank: str) -> Cells:
    return {(r["seed"],): {"published Δ": pm(r["delta_pp"]), "published broken": r["degraded"] or NONE}
            for r in by_rank(rank)}  # fmt: skip


def table7() -> Cells:
    return {(r["seed"],): {"published %": r["tuned_pct"], "published Δ": pm(r["delta_pp"])}
            for r in lines("falcon_per_seed")}  # fmt: skip


def pass_at_k() -> Cells:
    out: Cells = {}
    for method in ("baseline", "lora_r24", "s0"):
        cells = {}
        for k in (1, 5, 10):
            values = [float(r[f"pass{k}_pct"]) for r in lines("humaneval_pass_at_k") if r["method"] == method]
            cells[f"pass@{k} published"] = f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
        out[(METHODS[method],)] = cells
    return out


def pass_at_k_seeds() -> Cells:
    return {(METHODS[r["method"]], r["seed"]): {f"published pass@{k}": f"{float(r[f'pass{k}_pct']):.1f}" for k in (1, 5, 10)}
            for r in lines("humaneval_pass_at_k")}  # fmt: skip


def scaling() -> Cells:
    return {(r["model"],): {"published base %": r["baseline_pct"], "published Δ": pm(r["delta_pp"], r["std_pp"]),
                            "published p": r["p_value"] or NONE} for r in lines("scaling")}  # fmt: skip


def efficiency() -> Cells:
    return {(r["n_solutions"],): {"published Δ": pm(r["delta_pp"], r["std_pp"]), "published seeds": r["n_seeds"]}
            for r in lines("data_efficiency")}  # fmt: skip


def cross_domain() -> Cells:
    out: Cells = {}
    for task, name in (("math500", "MATH-500"), ("gsm8k", "GSM8K")):
        r = summary()["qwen35_4b", task, "s0"]
        before, after = ([float(x[k]) for x in lines(f"{task}_per_seed")] for k in ("baseline_pass1", "tuned_pass1"))
        out[name, "default"] = {
            "published %": pm(r["accuracy_pct"], r["accuracy_std"], sign=False),
            "published Δ": pm(r["delta_pp"], r["delta_std"]),
            "published seeds' Welch p": welch(after, before),
            "published seeds": str(len(after)),
        }
    for r in lines("spider_alpha_sweep"):
        after, before = (100 * float(r[k]) for k in ("tuned_pass1", "baseline_pass1"))
        out["Spider", r["alpha"]] = {"published %": f"{after:.1f}", "published Δ": pm(str(round(after - before, 9))),
                                     "published seeds' Welch p": NONE, "published seeds": "1"}  # fmt: skip
    return out


def p_values() -> Cells:
    return {
        (r["comparison"].replace("lora_r24", "LoRA r24"),): {"published p": r["p_value"]} for r in lines("p_values")
    }


#: table -> (columns that name a line, expected cells of each line)
COLUMNS: dict[str, tuple[tuple[str, ...], Cells]] = {
    "table1_main": (("model", "method"), table1()),
    "table2_matched_lora": (("method",), table2()),
    "table3_offset": (("",), table3()),
    "table4_hyperparameters": (("method", "field", "models"), table4()),
    "table5_layers": (("layers",), table5()),
    "table6_lora_seeds": (("seed",), lora_seeds("24")),
    "table7_falcon_seeds": (("seed",), table7()),
    "table8_lora_r48_seeds": (("seed",), lora_seeds("48")),
    "table8_lora_r64_seeds": (("seed",), lora_seeds("64")),
    "table9_pass_at_k": (("method",), pass_at_k()),
    "table10_pass_at_k_seeds": (("method", "seed"), pass_at_k_seeds()),
    "fig3a_scaling": (("model",), scaling()),
    "data_efficiency": (("solutions",), efficiency()),
    "cross_domain": (("task", "alpha"), cross_domain()),
    "p_values": (("comparison",), p_values()),
}


def quantities(name: str) -> dict[str, str]:
    return {r["quantity"]: r["value"] for r in lines(name)}


def published_lines() -> dict[str, list[str]]:
    """Table -> the one line in it that is published as a whole (kind "published"), without the model's name."""
    d, m = quantities("divergence"), quantities("mechanism")
    prefix = summary()["qwen25_3b", "humaneval", "prefix"]
    n, zero = d["fail_to_pass_flips"], d["diverge_at_char_0"]
    share = f"{zero} ({100 * int(zero) / int(n):.0f} %)"
    upper = "<" + d["sign_test_p_upper"]
    means = [f"{float(d[k]):.2f}" for k in ("mean_relative_position_pct", "median_relative_position_pct")]
    return {
        "fig4_divergence": [n, share, *means, f"{n} of {n}", upper],
        "persistence": [f"{float(m['persistence_end_ratio_pct']):.2f}", NONE, NONE, NONE],
        "probe": ["best", *(f"{float(m[f'probe_auc_{s}']):.2f}" for s in ("recurrent", "residual")), NONE],
        "prefix_control": [pm(prefix["delta_pp"], prefix["delta_std"]), prefix["n"]],
    }


@pytest.fixture(params=["empty", "full"])
def layout(request) -> PaperPaths:
    return request.getfixturevalue(request.param)


def all_tables(layout: PaperPaths) -> Iterator[tuple[str, list[dict[str, str]]]]:
    for path in sorted((layout.paper / "tables").glob("*.csv")):
        yield path.stem, table(layout, path.stem)


def test_every_published_column_is_the_published_file_cell_by_cell(layout: PaperPaths) -> None:
    for stem, (names, expected) in COLUMNS.items():
        found = {tuple(row[n] for n in names): row for row in table(layout, stem)}
        assert set(expected) <= set(found), (stem, set(expected) - set(found))
        columns = {c for cells in expected.values() for c in cells}
        for key, row in found.items():
            for column in columns:
                assert row[column] == expected.get(key, {}).get(column, NONE), (stem, key, column)


def test_every_column_called_published_has_an_expectation(layout: PaperPaths) -> None:
    for stem, rows in all_tables(layout):
        covered = {c for cells in COLUMNS.get(stem, ((), {}))[1].values() for c in cells}
        assert {c for c in rows[0] if "published" in c} == covered, stem


def test_every_line_called_published_is_the_published_file(layout: PaperPaths) -> None:
    expected = published_lines()
    for stem, rows in all_tables(layout):
        own = [list(row.values()) for row in rows if "published" in row.values()]
        assert len(own) == (stem in expected), stem
        if own:
            assert own[0][own[0].index("published") + 1 :] == expected[stem], stem


def test_published_text_is_the_published_file(empty: PaperPaths) -> None:
    text = "".join(p.read_text() for p in sorted((empty.paper / "generated").glob("*.tex")))
    macros = {k: v.replace(r"$\pm$", "±").replace(r"\%", "%").replace("--", NONE)
              for k, v in re.findall(r"\\newcommand\{\\(pub\w+)\}\{(.*)\}", text)}  # fmt: skip
    d, m = quantities("divergence"), quantities("mechanism")
    expected = {
        "pubFlipsAtZero": f"{d['diverge_at_char_0']} of {d['fail_to_pass_flips']}",
        "pubFlipMean": f"{float(d['mean_relative_position_pct']):.2f}",
        "pubPersistenceEnd": f"{float(m['persistence_end_ratio_pct']):.2f}",
        "pubProbeRecurrent": f"{float(m['probe_auc_recurrent']):.2f}",
        "pubProbeResidual": f"{float(m['probe_auc_residual']):.2f}",
        "pubPrefixDelta": published_lines()["prefix_control"][0],
    }
    for model, word in (("qwen35_4b", "Qwen"), ("falcon_h1_7b", "Falcon")):
        for method, name in (("s0", "Szero"), ("lora_r24", "Lora"), ("state_offset", "Offset"), ("baseline", "Base")):
            r = summary().get((model, "humaneval", method), dict.fromkeys(("accuracy_pct", "delta_pp"), ""))
            expected[f"pub{word}{name}"] = pm(r["accuracy_pct"], r.get("accuracy_std", ""), sign=False)
            if method != "baseline":
                expected[f"pub{word}{name}Delta"] = pm(r["delta_pp"], r.get("delta_std", ""))
    for task, name in (("math500", "Math"), ("gsm8k", "Gsm")):
        r = summary()["qwen35_4b", task, "s0"]
        expected[f"pub{name}Delta"] = pm(r["delta_pp"], r["delta_std"])
    for method, name in (("baseline", "Base"), ("s0", "Szero"), ("lora_r24", "Lora")):
        expected[f"pub{name}PassTen"] = pass_at_k()[(METHODS[method],)]["pass@10 published"]
    assert macros == expected


def test_the_published_alpha_regions_stand_in_the_notes(empty: PaperPaths) -> None:
    m = {k: f"{float(v):g}" for k, v in quantities("mechanism").items()}
    for stem, key in (("alpha_sweep_qwen", "alpha_plateau_gdn"), ("fig3b_alpha_falcon", "alpha_best_mamba2")):
        note = (empty.paper / "tables" / f"{stem}.md").read_text()
        assert f"for alpha {m[f'{key}_low']} to {m[f'{key}_high']} on" in note


def test_a_summary_that_its_own_per_seed_figures_do_not_give_is_remarked(empty: PaperPaths) -> None:
    """LoRA of rank 48: per seed 2.16, printed 2.1. GSM8K: per seed 2.86, printed 2.8. The others agree as printed."""
    deltas = {f"LoRA r{rank}": [float(r["delta_pp"]) for r in by_rank(rank)] for rank in ("24", "48", "64")}
    for task, name in (("math500", "MATH-500"), ("gsm8k", "GSM8K")):
        deltas[name] = [100 * (float(r["tuned_pass1"]) - float(r["baseline_pass1"])) for r in lines(f"{task}_per_seed")]
    keys = {"GSM8K": ("gsm8k", "s0"), "MATH-500": ("math500", "s0")}
    texts = "".join((empty.paper / "tables" / f"{s}.md").read_text() for s in ("table2_matched_lora", "cross_domain"))
    differ = set()
    for name, values in deltas.items():
        task, method = keys.get(name, ("humaneval", name.lower().replace(" ", "_")))
        printed = summary()["qwen35_4b", task, method]["delta_pp"]
        mean = statistics.mean(values)
        if f"{mean:.1f}" != f"{float(printed):.1f}":
            differ.add(name)
            assert (
                f"{name}: the published per-seed figures give mean {mean:.2f}, the published summary {printed}."
                in texts
            )
    assert differ == {"LoRA r48", "GSM8K"}
    assert set(re.findall(r"(\S+(?: r\d+)?): the published per-seed figures", texts)) == differ


def hidden(name: str, row: dict[str, str], column: str) -> bool:
    """Whether NOT_SHOWN gives a reason: for the column, for the line's quantity or model, or for the file."""
    keys = (column, row.get("quantity", column), row.get("model", column))
    return any(f == name and fnmatch(key, pattern) for f, pattern in NOT_SHOWN for key in keys)


def test_no_published_figure_is_left_out_without_a_reason(empty: PaperPaths) -> None:
    """Every published number is printed somewhere (rounded like the tables do), or listed in NOT_SHOWN."""
    text = "\n".join(p.read_text() for p in (empty.paper / "tables").glob("*.csv"))
    numbers = {float(v) for v in re.findall(r"[-+]?\d+(?:\.\d+)?(?:e-\d+)?", text)}
    files = sorted(PUBLISHED.glob("*.csv"))
    assert files
    for path in files:
        for row in lines(path.stem):
            for column, value in row.items():
                if hidden(path.stem, row, column) or not re.fullmatch(r"-?[\d.]+(?:e-\d+)?", value or ""):
                    continue
                rounded = (float(value), round(float(value), 1), round(float(value), 2))
                assert any(math.isclose(n, f) for n in numbers for f in rounded), (path.name, row, column)
