"""The analyses on a real cell of the embedded model: sampled, verified, trained, then looked into."""

from __future__ import annotations

from pathlib import Path

import pytest

from s0 import config as schema
from s0.analysis.results import read_result
from s0.analysis.run import ANALYSES, analyse
from s0.pipeline import Lab, run_cell
from s0.store import Store

CONFIGS = Path(__file__).parents[2] / "configs"


def compose(folder: Path, experiment: str, *overrides: str):
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    schema.register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra_compose("config", [f"store={folder / 'store'}", f"records={folder / 'records'}", "seed=0",
                                       "task.samples_per_problem=4", "method.alpha=0.3", *overrides])  # fmt: skip
    return {**schema.resolve(cfg), "experiment": experiment}


@pytest.mark.slow
def test_analyses_of_a_real_cell_and_nothing_is_done_twice(tmp_path: Path) -> None:
    for experiment, names in ANALYSES.items():
        config = compose(tmp_path, experiment)
        with Lab(Store(config["store"]), config["sandbox"]) as lab:
            records = run_cell(config, lab)
            paths = analyse(config, lab, records)
            results = {r.analysis: r for r in map(read_result, paths)}
            assert set(results) == set(names)
            assert all(r.record_key == records[0].key for r in results.values())
            times = [p.stat().st_mtime_ns for p in paths]
            assert analyse(config, lab, records) == paths
            assert [p.stat().st_mtime_ns for p in paths] == times
        if experiment == "persistence":
            assert results["persistence"].values["n_prompts"] == 84
            assert results["alpha_prediction"].values["alpha"] > 0
        else:
            assert results["probe"].values["n_problems"] == 164


def test_experiments_without_analyses_give_none() -> None:
    assert analyse({"experiment": "table1_main"}, None, []) == []  # type: ignore[arg-type]
