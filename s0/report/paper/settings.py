"""Table 4 (hyper-parameters, read from the configuration) and published p-values recomputed."""

from __future__ import annotations

import math
from typing import Any

from omegaconf import OmegaConf

from s0 import stats
from s0.config.registry import METHODS
from s0.report.formats import MISSING, Table, p_text
from s0.report.paper.context import Built, Context, method_name
from s0.settings import describe
from s0.state.recurrences import DEFAULT_ALPHA
from s0.tiny.standins import STAND_IN

_SHOWN = ("n_steps", "lr", "l2_lambda", "grad_clip", "max_length", "layers", "rank", "lora_alpha", "mode",
          "n_virtual_tokens", "projection")  # fmt: skip


def _text(value: Any) -> str:
    if value is None:
        return MISSING
    return f"{value:g}" if isinstance(value, float) else str(value)


def _model_values(ctx: Context, model: str) -> dict[str, dict[str, Any]]:
    """Documented hyper-parameters of a model preset: method -> field -> value."""
    path = ctx.configs_dir / "model" / f"{model}.yaml" if ctx.configs_dir else None
    if path is None or not path.exists():
        return {}
    values = OmegaConf.to_container(OmegaConf.load(path))
    return (values.get("hyperparameters") if isinstance(values, dict) else None) or {}


def table4(ctx: Context) -> Built:
    """Hyper-parameters: published, this project's defaults, and what the model presets override."""
    published = {(r["method"], r["field"]): r["value"] for r in ctx.published("hyperparameters")}
    models = [*STAND_IN, *STAND_IN.values()]
    overrides = {m: _model_values(ctx, m) for m in models}
    lines = []
    for method, entry in METHODS.items():
        assert entry.config is not None
        defaults = {s.name: s.default for s in describe(entry.config)}
        for name in [f for f in _SHOWN if f in defaults or (method, f) in published]:
            lines.append((method, name, published.get((method, name), MISSING), _text(defaults.get(name)), ""))
        if method == "s0":
            for kind, key in (("GatedDeltaNet", "gated_delta_net"), ("Mamba-2", "mamba2")):
                name = f"alpha ({kind})"
                lines.append((method, name, published.get((method, name), MISSING), _text(DEFAULT_ALPHA[key]), ""))
    rows = []
    for method, name, value, default, _ in lines:
        field = name.split(" ")[0]
        own = [f"{m}: {_text(overrides[m][method][field])}" for m in models if field in overrides[m].get(method, {})]
        if field == "alpha":
            family = ("qwen35_4b", "tiny_gdn") if "Gated" in name else ("falcon_h1_7b", "tiny_mamba2")
            own = [text for text in own if text.split(":")[0] in family]
        default = "2r" if name == "lora_alpha" and default == MISSING else default
        rows.append(
            (method_name(method) if method != "lora" else "LoRA", name, value, default, "; ".join(own) or MISSING)
        )
    table = Table(
        "Hyper-parameters: published, and as configured here",
        ("method", "field", "published", "default here", "model presets"),
        tuple(rows),
        ("Read from the configuration files and the method registry when the table is built.",),
        frozenset({2, 3}),
    )
    return Built({"table4_hyperparameters": table})


def p_values(ctx: Context) -> Built:
    """Published p-values against the same tests recomputed from published per-seed figures, with Holm's correction."""
    lora = ctx.published_values("humaneval_lora_per_seed", "delta_pp", rank="24")
    s0 = ctx.published_row("summary", model="qwen35_4b", task="humaneval", method="s0")
    assert s0 is not None
    of_lora = stats.mean_std(lora)
    mean, std, n = float(s0["delta_pp"]), float(s0["delta_std"]), int(s0["n"])
    recomputed = {
        "s0 vs lora_r24 (humaneval, qwen35_4b)": stats.welch_from_stats(mean, std, n, of_lora.mean, of_lora.std, n),
        # the baseline is one greedy run: a spread of zero
        "s0 vs baseline (humaneval, qwen35_4b)": stats.welch_from_stats(mean, std, n, 0.0, 0.0, n),
    }
    for task in ("math500", "gsm8k"):
        before = ctx.published_values(f"{task}_per_seed", "baseline_pass1")
        after = ctx.published_values(f"{task}_per_seed", "tuned_pass1")
        recomputed[f"s0 vs baseline ({task})"] = stats.welch(after, before)
    names = [r["comparison"] for r in ctx.published("p_values")]
    values = [float(recomputed[name].p_value) if name in recomputed else math.nan for name in names]
    lines = []
    for row, p, adjusted in zip(ctx.published("p_values"), values, stats.holm(values), strict=True):
        cells = (p_text(p), p_text(adjusted)) if not math.isnan(p) else ("not recomputable", MISSING)
        lines.append((row["comparison"].replace("lora_r24", "LoRA r24"), row["test"], row["p_value"], *cells))
    table = Table(
        "Published p-values, recomputed from the published figures",
        ("comparison", "test", "published p", "recomputed p", "Holm"),
        tuple(lines),
        (
            "Not recomputable: no per-seed figures, count or spread are public. Holm: adjusted over the recomputed family.",
        ),
        frozenset({2, 3, 4}),
    )
    p = float(recomputed["s0 vs lora_r24 (humaneval, qwen35_4b)"].p_value)
    return Built({"p_values": table}, macros={"recomputedLoraP": p_text(p)})
