"""Made-up records for tests; they exist in memory and in temporary folders only."""

from __future__ import annotations

from typing import Any

from s0.data import Outcome, Verdict, digest
from s0.storage.records import Evaluation, Record, TrainingSummary


def evaluation(passes: list[bool], label: str = "x", texts: list[str] | None = None, **kw: Any) -> Evaluation:
    outcomes = [
        Outcome(
            f"P/{i}",
            texts[i] if texts else f"    return {i if ok else 'None'}",
            Verdict("pass" if ok else "wrong"),
            n=kw.get("n_samples", 1),
            c=(kw.get("n_samples", 1) if ok else 0),
        )
        for i, ok in enumerate(passes)
    ]
    return Evaluation(label, kw.pop("protocol", "greedy"), outcomes, **kw)


Passes = list[bool] | Evaluation | None


def _evaluation(passes: Passes, label: str) -> Evaluation | None:
    return passes if passes is None or isinstance(passes, Evaluation) else evaluation(passes, label)


def record(
    seed: int = 0,
    base: Passes = None,
    tuned: Passes = None,
    control: Passes = None,
    **kw: Any,
) -> Record:
    """A record with sensible fields; keyword arguments replace them (`label`, `config`, `status`, ...)."""
    label = kw.pop("label", kw.get("method", "s0"))
    fields: dict[str, Any] = {
        "status": "ok",
        "experiment": "",
        "model": "tiny_gdn",
        "task": "minieval",
        "method": "s0",
        "seed": seed,
        "alpha": 0.3,
        "error": None,
        "config": {"method": {"name": "s0", "n_steps": 20}},
        "config_hash": "c",
        "model_info": {"name": "tiny_gdn", "weights_sha256": "w"},
        "task_info": {"name": "minieval", "dataset_hash": "d"},
        "method_info": {"label": label, "trainable_params": 12288, "inference_cost": "none"},
        "baseline": _evaluation(base, "baseline"),
        "tuned": _evaluation(tuned, "tuned"),
        "controls": {"random_state": _evaluation(control, "random_state")} if control else {},
        "baseline_key": f"b{seed}",
        "environment": {"commit": "abc", "dirty": False},
        "wall_s": {"train": 1.0},
        "created": "2025-01-01T00:00:00+00:00",
    } | kw
    identity = ("config", "experiment", "model", "task", "created", "alpha", "model_info")
    steps = {"losses": [2.0, 1.5, 1.2], "objective": [2.1, 1.6, 1.3], "grad_norms": [1.0, 0.8, 0.5]}
    fields.setdefault("training", TrainingSummary(16, 1280, 600, 48, **steps, alpha=fields["alpha"]))
    fields.setdefault("key", digest([seed, label, *(fields[name] for name in identity)]))
    return Record(**fields)


def bits(text: str) -> list[bool]:
    """`"1101"` -> [True, True, False, True]."""
    return [c == "1" for c in text]
