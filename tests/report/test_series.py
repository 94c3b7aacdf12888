"""Record aggregations: layer groups, data efficiency, scaling, alpha curves, analysis files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from synthetic import bits, record

from s0.errors import DataError, StoreError
from s0.report.series import alpha_curve, best_alpha, data_efficiency, layer_ablation, scaling
from s0.storage.records import TrainingSummary
from s0.storage.results import AnalysisResult, find_results, read_result, write_result

BASE = bits("1100000000")


def s0_record(seed: int = 0, n_solved: int = 5, **method):
    tuned = bits("1" * n_solved + "0" * (10 - n_solved))
    alpha = method.pop("alpha", 0.3)
    model = method.pop("model", "tiny_gdn")
    return record(
        seed,
        BASE,
        tuned,
        alpha=alpha,
        model=model,
        config={"method": {"name": "s0", **method}},
        training=TrainingSummary(n_samples=99, n_passed=48, n_solutions=48, alpha=alpha, alpha_source="config"),
        model_info={"n_parameters": {"small": 10, "large": 1000}.get(model, 100)},
    )


def test_layer_groups_in_depth_order() -> None:
    groups = layer_ablation(
        [s0_record(layers=g) for g in ("all", "late", "early", "middle")] + [s0_record(layers=[0, 2])]
    )
    assert [name for name, _, _ in groups] == ["early", "middle", "late", "all", "layers 0, 2"]


def test_data_efficiency_places_the_unlimited_cell_at_what_there_was() -> None:
    points = data_efficiency([s0_record(n_solutions=None), s0_record(n_solutions=25), s0_record(n_solutions=10)])
    assert [n for n, _ in points] == [10, 25, 48]


def test_scaling_smallest_first() -> None:
    assert [m for m, _, _ in scaling([s0_record(model="large"), s0_record(model="small")])] == ["small", "large"]


def test_best_alpha_of_an_inverted_u() -> None:
    curve = alpha_curve([s0_record(alpha=a, n_solved=n) for a, n in ((1.0, 3), (0.1, 4), (0.3, 8), (0.5, 8))])
    assert [a for a, _ in curve] == [0.1, 0.3, 0.5, 1.0]
    assert best_alpha(curve) == 0.3
    assert math.isnan(best_alpha([]))


def test_attack_two_cells_are_never_averaged_into_one_point() -> None:
    with pytest.raises(DataError, match="2 cells"):
        layer_ablation([s0_record(layers="all", lr=1e-3), s0_record(seed=1, layers="all", lr=1e-2)])


def test_results_round_trip(tmp_path: Path) -> None:
    result = AnalysisResult("probe", "probe", "tiny_gdn", "minieval", 3, 0.3, {"auc": None})
    path = write_result(tmp_path / "deep", result)
    assert read_result(path) == result
    assert find_results([tmp_path, tmp_path / "missing"], "probe") == [result]
    assert find_results([tmp_path], "persistence") == []


def test_attack_torn_result(tmp_path: Path) -> None:
    path = write_result(tmp_path, AnalysisResult("probe", "probe", "m", "t", 0, None, {}))
    path.write_text(path.read_text()[:40])
    with pytest.raises(StoreError, match="run the analysis again"):
        read_result(path)
