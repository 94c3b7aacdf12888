"""The end of a run on a terminal: a sentence with the result, a table that fits, where things lie."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from s0.report import screen, summary_table
from s0.report.aggregate import load_records
from s0.report.summary import rows_to_table
from s0.storage.records import Record

RECORDS = Path(__file__).parents[2] / "experiments" / "records" / "table1_main"


@pytest.fixture(scope="module")
def records() -> list[Record]:
    found = load_records([RECORDS])
    assert found
    return found


@pytest.fixture(scope="module")
def cell(records: list[Record]) -> list[Record]:
    return [r for r in records if (r.model, r.method) == ("tiny_gdn", "s0")]


def test_one_sentence_says_the_result(cell: list[Record]) -> None:
    (text,) = [" ".join(screen.sentences(cell, 80).split())]
    base, tuned = 100 * cell[0].baseline.accuracy, sum(100 * r.tuned.accuracy for r in cell) / len(cell)
    for words in (
        f"tiny_gdn, minieval, s0: {base:.1f} % -> {tuned:.1f} % of {len(cell[0].tuned.outcomes)} held-out problems",
        *(
            f"{len(cell)} seeds",
            "95 % interval",
            "over seeds and problems",
            "newly solved and",
            "newly broken",
            "control (random state)",
        ),
        "chosen on training problems",
    ):
        assert words in text
    assert text.count(". ") == 0, "one sentence"


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_everything_fits_the_terminal(records: list[Record], width: int) -> None:
    text = screen.results(records, width)
    assert max(map(len, text.splitlines())) <= width
    for r in records:
        assert r.model in text


def test_what_a_narrow_terminal_drops_is_named_and_a_wide_one_has_all(records: list[Record]) -> None:
    assert "left out here: seeds p" in screen.screen_table(records, 80)
    wide = screen.screen_table(records, 1000)
    assert "left out" not in wide
    assert wide == summary_table(records)


def test_a_table_that_cannot_fit_becomes_cards(records: list[Record]) -> None:
    table = rows_to_table(screen.aggregate(records))
    text = screen.fitting(table, 30)
    assert all(len(line) <= 30 for line in text.splitlines())
    assert text.count("\ndelta pp ") + text.startswith("delta pp ") == len(table.rows)


def test_a_run_without_a_result_says_why(cell: list[Record]) -> None:
    lost = [dataclasses.replace(cell[0], status="failed", baseline=None, tuned=None, error="boom")]
    assert "no result (1 failed)" in screen.sentences(lost, 80)


def test_where_things_lie(cell: list[Record], tmp_path: Path) -> None:
    text = screen.whereabouts(
        cell, 4, tmp_path, tmp_path / "report.html", (tmp_path / "r.json", tmp_path / "state"), "s0 run"
    )
    assert f"{len(cell)} record(s), 4 of {len(cell)} reused" in text
    for words in (
        "report.html",
        str(tmp_path / "state"),
        "s0 export -o my_state",
        "trainer.load",
    ):
        assert words in text


def test_time_left_is_told_when_it_can_be_known() -> None:
    from s0.runtime.progress import Plain

    plain = Plain("sample", 7168, "completions")
    plain.advance(1)
    assert "left" not in plain.line(5.7)
    plain.advance(1000)
    assert plain.line(100.0).endswith("(10.0/s, 10 min left)")
