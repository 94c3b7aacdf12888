"""Table 4 (hyper-parameters, read from the configuration) and published p-values recomputed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from s0 import stats
from s0.config.registry import METHODS
from s0.report.formats import MISSING, Table, p_text
from s0.report.paper.context import Built, Context, method_name, model_name
from s0.settings import describe
from s0.state.families import ATTENTION_TARGETS, MAMBA2_TARGETS
from s0.state.recurrences import DEFAULT_ALPHA
from s0.tiny.standins import STAND_IN

_SHOWN = ("n_steps", "lr", "l2_lambda", "grad_clip", "max_length", "layers", "rank", "lora_alpha", "mode",
          "n_virtual_tokens", "projection")  # fmt: skip
#: published scope -> models of that kind of recurrence, and its family here
_KINDS = {"GatedDeltaNet": ("qwen35_4b",), "Mamba-2": ("falcon_h1_7b",), "Transformer": ("qwen25_3b",)}
_FAMILY = {"GatedDeltaNet": "gated_delta_net", "Mamba-2": "mamba2"}


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


def _models(scope: str) -> tuple[str, ...]:
    """Model presets a published scope speaks of: "all", a kind of recurrence or a model, with its stand-in."""
    named = STAND_IN if scope == "all" else _KINDS.get(scope, (scope,))
    return tuple(dict.fromkeys([*named, *(STAND_IN[m] for m in named if m in STAND_IN)]))


def _default(method: str, name: str, scope: str, defaults: Mapping[str, Any]) -> str:
    """What a run uses where no configuration names the field."""
    if (method, name) == ("s0", "alpha") and scope in _FAMILY:
        return _text(DEFAULT_ALPHA[_FAMILY[scope]])
    if (method, name) == ("lora", "targets") and scope in _FAMILY:
        return " ".join(MAMBA2_TARGETS if scope == "Mamba-2" else ATTENTION_TARGETS)
    if (method, name) == ("lora", "lora_alpha") and defaults[name] is None:
        return "2r"
    return _text(defaults.get(name))


def table4(ctx: Context) -> Built:
    """Hyper-parameters: published, this project's defaults, and what the model presets override. One line per method,
    field and scope; a preset stands in the narrowest scope that holds its model."""
    published = {(r["method"], r["field"], r["model"]): r["value"] for r in ctx.published("hyperparameters")}
    overrides = {m: _model_values(ctx, m) for m in _models("all")}
    rows = []
    for method, entry in METHODS.items():
        assert entry.config is not None
        defaults = {s.name: s.default for s in describe(entry.config)}
        known = [f for m, f, _ in published if m == method]
        for name in dict.fromkeys([*(f for f in _SHOWN if f in defaults or f in known), *known]):
            scopes = [s for m, f, s in published if (m, f) == (method, name)] or ["all"]
            narrow = sorted(scopes, key=lambda s: len(_models(s)))
            for scope in scopes:
                own = [
                    f"{m}: {_text(values[method][name])}"
                    for m, values in overrides.items()
                    if name in values.get(method, {}) and scope == next((s for s in narrow if m in _models(s)), None)
                ]
                value = published.get((method, name, scope), MISSING)
                default = _default(method, name, scope, defaults)
                title = "LoRA" if method == "lora" else method_name(method)
                models = "others" if scope == "all" and len(scopes) > 1 else model_name(scope)
                rows.append((title, name, models, value, default, "; ".join(own) or MISSING))
    table = Table(
        "Hyper-parameters: published, and as configured here",
        ("method", "field", "models", "published", "default here", "model presets"),
        tuple(rows),
        ("Read from the configuration files and the method registry when the table is built.",),
        frozenset({3, 4}),
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
