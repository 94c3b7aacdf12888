"""A whole made-up set of records and analyses, in the folders the paper reads. For temporary folders only."""

from __future__ import annotations

import random
from pathlib import Path

from synthetic import evaluation, record

from s0.storage.records import TrainingSummary, write_record
from s0.storage.results import AnalysisResult, write_result

N = 84


def write_all(root: Path, seeds: int = 4) -> None:
    rng = random.Random(0)
    bases = {m: [rng.random() < p for _ in range(N)] for m, p in
             (("tiny_gdn", 0.4), ("tiny_mamba2", 0.45), ("tiny_transformer", 0.5), ("qwen35_4b", 0.5))}  # fmt: skip

    def tuned(model: str, rate: float) -> list[bool]:
        return [b if rng.random() < 0.3 else rng.random() < rate for b in bases[model]]

    def add(
        experiment, model, label, rate, *, alpha=None, seeds=seeds, sampled=False, n_solutions=48, limit=None, **method
    ):
        name = (
            label.split("_r")[0]
            if label.startswith("lora")
            else label.split("_")[0]
            if label != "state_offset"
            else label
        )
        for seed in range(seeds):
            passes = tuned(model, rate)
            kw = {"protocol": "sampled", "n_samples": 10} if sampled else {}
            texts = [f"    return {i}" if ok else f"The function {i}" for i, ok in enumerate(passes)]
            before = [f"The function {i}" if not ok else f"    return {i}" for i, ok in enumerate(bases[model])]
            r = record(
                seed,
                evaluation(bases[model], texts=before, **kw),
                evaluation(passes, texts=texts, **kw),
                evaluation(bases[model], **kw) if name == "s0" else None,
                experiment=experiment,
                model=model,
                method=name,
                label=label,
                alpha=alpha,
                config={"method": {"name": name, "n_solutions": limit, **method}},
                training=TrainingSummary(
                    n_samples=999,
                    n_passed=99,
                    n_solutions=n_solutions,
                    losses=[2, 1, 0.5],
                    alpha=alpha,
                    alpha_source="config",
                ),
                model_info={"name": model, "weights_sha256": model, "n_parameters": 780_000},
                baseline_key="shared",
            )
            write_record(root / experiment, r)

    for m in ("tiny_gdn", "tiny_mamba2", "qwen35_4b"):
        add("table1_main", m, "s0", 0.75, alpha=0.3)
        add("table1_main", m, "lora_r24", 0.9)
        if m != "tiny_mamba2":
            add("table1_main", m, "state_offset", 0.6)
    for rank in (24, 48, 64):
        add("table2_matched_lora", "tiny_gdn", f"lora_r{rank}", 0.9 - rank / 100, rank=rank)
    add("table2_matched_lora", "tiny_gdn", "s0", 0.75, alpha=0.3)
    add("table3_offset", "tiny_gdn", "s0", 0.75, alpha=0.3)
    add("table3_offset", "tiny_gdn", "state_offset", 0.65)
    add("table3_offset", "tiny_mamba2", "s0", 0.75, alpha=0.3)
    for group in ("early", "middle", "late", "all"):
        add("table5_layers", "tiny_gdn", "s0" if group == "all" else f"s0_{group}", 0.7, alpha=0.3, layers=group)
    for label in ("s0", "lora_r24"):
        add("table9_pass_at_k", "tiny_gdn", label, 0.7, alpha=0.3 if label == "s0" else None, sampled=True, seeds=3)
    add("fig3a_scaling", "tiny_gdn", "s0", 0.75, alpha=0.3)
    for a, rate in ((0.05, 0.45), (0.1, 0.5), (0.3, 0.8), (0.65, 0.9), (1.0, 0.7), (2.0, 0.3)):
        add("alpha_sweep_qwen", "tiny_gdn", "s0", rate, alpha=a)
        add("fig3b_alpha_falcon", "tiny_mamba2", "s0", rate, alpha=a)
    for n in (10, 25, None):
        add("data_efficiency", "tiny_gdn", f"s0_n{n}" if n else "s0", 0.7, alpha=0.3, n_solutions=n or 48, limit=n)
    add("cross_domain", "tiny_gdn", "s0", 0.7, alpha=0.3)
    for lr in (1e-4, 1e-3):
        add("prefix_control", "tiny_transformer", "prefix", 0.3, lr=lr, seeds=3)
    for m in ("tiny_gdn", "tiny_mamba2"):
        for seed in range(2):
            ratio = [2.718 ** (-0.1 * t - 0.02 * seed) for t in range(40)]
            values = {"kl": ratio, "ratio": ratio, "predicted": [v**1.2 for v in ratio], "end_ratio": ratio[-1],
                      "rate": 0.1 + 0.01 * seed, "predicted_rate": 0.12}  # fmt: skip
            write_result(
                root / "persistence", AnalysisResult("persistence", "persistence", m, "minieval", seed, 0.3, values)
            )
            auc = {str(i): {"auc": 0.7 + 0.05 * i, "std": 0.02} for i in range(3)}
            low = {str(i): {"auc": 0.65 + 0.05 * i, "std": 0.02} for i in range(3)}
            values = {"recurrent": auc, "residual": low, "n_problems": 164, "n_solved": 70,
                      "best_recurrent": 0.8, "best_residual": 0.75}  # fmt: skip
            write_result(root / "probe", AnalysisResult("probe", "probe", m, "minieval", seed, 0.3, values))
            values = {"alpha": 0.4, "natural_norm": 10.0, "state_norm": 20.0, "survival": 0.8}
            write_result(
                root / "alpha_prediction",
                AnalysisResult("alpha_prediction", "alpha_prediction", m, "minieval", seed, 0.3, values),
            )
