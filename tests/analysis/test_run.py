"""The analyses on a real cell of the embedded model: sampled, verified, trained, then looked into."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from s0.analysis.run import analyse
from s0.config.registry import ANALYSES, register
from s0.config.resolve import resolve
from s0.config.schema import Config
from s0.errors import ConfigError
from s0.experiment.resources import Resources
from s0.experiment.run import run_cell
from s0.storage.results import read_result
from s0.storage.store import Store

CONFIGS = Path(__file__).parents[2] / "configs"


def compose(folder: Path, analysis: str, *overrides: str):
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra_compose("config", [f"store={folder / 'store'}", f"records={folder / 'records'}", "seed=0",
                                       "task.samples_per_problem=4", "method.alpha=0.3", *overrides])  # fmt: skip
    return dataclasses.replace(resolve(cfg), analysis=analysis)


@pytest.mark.slow
def test_analyses_of_a_real_cell_and_nothing_is_done_twice(tmp_path: Path) -> None:
    values = {}
    for name in ANALYSES:
        config = compose(tmp_path, name)
        with Resources(Store(config.store), config.sandbox) as resources:
            records = run_cell(config, resources)
            (path,) = analyse(config, resources, records)
            result = read_result(path)
            assert result.analysis == name
            assert result.record_key == records[0].key
            time = path.stat().st_mtime_ns
            assert analyse(config, resources, records) == [path]
            assert path.stat().st_mtime_ns == time
        values[name] = result.values
    assert values["persistence"]["n_prompts"] == 84
    assert values["alpha_prediction"]["alpha"] > 0
    assert values["probe"]["n_problems"] == 164


def test_without_an_analysis_nothing_is_run() -> None:
    assert analyse(Config(), None, []) == []  # type: ignore[arg-type]


def test_unknown_analysis_is_one_line_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="did you mean probe"):
        analyse(Config(analysis="prob"), None, [])  # type: ignore[arg-type]
