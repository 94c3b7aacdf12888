"""The statistics reproduce the published p-values from the published per-seed figures (within 2 %)."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from s0 import stats

PUBLISHED = Path(__file__).parents[2] / "experiments" / "published"


def column(name: str, key: str, **where: str) -> list[float]:
    with open(PUBLISHED / name, newline="") as f:
        return [float(r[key]) for r in csv.DictReader(f) if all(r[k] == v for k, v in where.items())]


@pytest.mark.parametrize(("name", "p"), [("gsm8k_per_seed.csv", 3.18e-4), ("math500_per_seed.csv", 1.72e-5)])
def test_cross_domain_welch(name: str, p: float) -> None:
    result = stats.welch(column(name, "tuned_pass1"), column(name, "baseline_pass1"))
    assert result.p_value == pytest.approx(p, rel=0.02)


def test_s0_summary_against_lora_per_seed() -> None:
    lora = stats.mean_std(column("humaneval_lora_per_seed.csv", "delta_pp", rank="24"))
    assert (round(lora.mean, 1), round(lora.std, 1), lora.n) == (12.7, 5.1, 10)
    result = stats.welch_from_stats(23.6, 1.7, 10, lora.mean, lora.std, lora.n)
    assert result.p_value == pytest.approx(5.4e-5, rel=0.02)


def test_falcon_mean_and_std() -> None:
    falcon = stats.mean_std(column("falcon_per_seed.csv", "delta_pp"))
    assert falcon.mean == pytest.approx(31.3, abs=0.05)
    assert falcon.std == pytest.approx(1.3, abs=0.05)


def test_divergence_sign_test() -> None:
    """All 27 flips diverge in the first half of the completion: one-sided p is 2^-27, printed as "< 1e-8"."""
    assert stats.sign_test(27, 27, alternative="greater").p_value == pytest.approx(2.0**-27)
