"""Flips, first differing characters, and the sign test over problems."""

from __future__ import annotations

import math

import pytest
from synthetic import bits, evaluation, record

from s0.analysis.divergence import cdf, first_difference, flips, summarise


@pytest.mark.parametrize(
    ("a", "b", "position"),
    [("abc", "abc", None), ("abc", "xbc", 0), ("abc", "abd", 2), ("ab", "abc", 2), ("", "abc", 0), ("", "", None)],
)
def test_first_difference(a: str, b: str, position: int | None) -> None:
    assert first_difference(a, b) == position
    assert first_difference(b, a) == position


def flip_record(before: list[str], after: list[str], passes: str = "", seed: int = 0):
    passes = passes or "1" * len(after)
    return record(seed, evaluation(bits("0" * len(before)), texts=before), evaluation(bits(passes), texts=after))


def test_positions_relative_to_the_tuned_completion() -> None:
    found = flips([flip_record(["abcd", "xxxx", "same"], ["abXY", "yyyyyyyy", "same"])])
    assert [(f.problem_id, f.position, f.relative) for f in found] == [("P/0", 2, 0.5), ("P/1", 0, 0.0)]


def test_only_newly_solved_problems_count() -> None:
    assert len(flips([flip_record(["a", "b"], ["x", "y"], passes="10")])) == 1
    assert flips([record(0, status="failed")]) == []


def test_sign_test_counts_each_problem_once() -> None:
    """Ten seeds with the same five flips are five problems, not fifty."""
    records = [flip_record(["a" * 10] * 5, ["b" * 10] * 5, seed=s) for s in range(10)]
    result = summarise(flips(records))
    assert (result.n_flips, result.n_at_zero, result.n_problems) == (50, 50, 5)
    assert result.sign_p == pytest.approx(2.0**-5)


def test_cdf_ends_at_one() -> None:
    found = flips([flip_record(["aaaa", "aaaa"], ["aaab", "baaa"])])
    assert cdf(found) == ([0.0, 0.75], [0.5, 1.0])


def test_no_flips() -> None:
    result = summarise([])
    assert result.n_flips == 0
    assert math.isnan(result.sign_p)
    assert cdf([]) == ([], [])
