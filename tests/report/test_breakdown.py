"""pass@k of sampled records and accuracy by level, subject or database: against hand counts."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from synthetic import bits, evaluation, record

from s0.report import aggregate, breakdown_text, summary_table, write_summary
from s0.report.breakdown import breakdown_tables, pass_at, pass_at_k_tables
from s0.storage.records import Evaluation


def sampled(counts: list[int], n: int = 4) -> Evaluation:
    e = evaluation([c > 0 for c in counts], protocol="sampled", n_samples=n, temperature=0.7)
    return dataclasses.replace(
        e, outcomes=[dataclasses.replace(o, c=c) for o, c in zip(e.outcomes, counts, strict=True)]
    )


def with_meta(e: Evaluation, levels: list[int]) -> Evaluation:
    outcomes = [dataclasses.replace(o, meta={"level": v}) for o, v in zip(e.outcomes, levels, strict=True)]
    return dataclasses.replace(e, outcomes=outcomes)


KS = {"method": {"name": "s0"}, "task": {"ks": [1, 2]}}


def test_pass_at_k_equals_a_hand_count() -> None:
    e = sampled([0, 1, 2, 4])
    assert pass_at(e, 1) == pytest.approx(100 * (0 + 1 / 4 + 2 / 4 + 1) / 4)
    assert pass_at(e, 2) == pytest.approx(100 * (0 + 3 / 6 + 5 / 6 + 1) / 4)
    assert math.isnan(pass_at(e, 5))


def test_the_table_has_the_ks_of_the_config() -> None:
    records = [record(i, sampled([0, 1, 2, 4]), sampled([1 + i, 2, 2, 4]), config=KS) for i in range(2)]
    (table,) = pass_at_k_tables(records)
    assert table.columns[4:] == ("base @1 %", "tuned @1 %", "base @2 %", "tuned @2 %", "samples", "seeds")
    assert table.rows[0][4].startswith("43.8")
    assert table.rows[0][-2:] == ("n=4, T=0.7", "2")
    assert "pass@k" in summary_table(records)


def test_greedy_records_have_no_pass_at_k() -> None:
    assert pass_at_k_tables([record(0, bits("10"), bits("11"))]) == []
    assert pass_at_k_tables([]) == []


def test_records_that_differ_in_ks_alone_are_one_cell() -> None:
    other = {"method": {"name": "s0"}, "task": {"ks": [1]}}
    records = [record(0, sampled([1]), sampled([2]), config=KS), record(1, sampled([1]), sampled([2]), config=other)]
    assert [r.n_seeds for r in aggregate(records)] == [2]


def test_breakdown_equals_a_hand_count(tmp_path: Path) -> None:
    levels = [1, 1, 2, 2]
    base = with_meta(evaluation(bits("1000")), levels)
    records = [record(i, base, with_meta(evaluation(bits(t)), levels)) for i, t in enumerate(["1110", "0110"])]
    (table,) = breakdown_tables(records)
    first, second = table.rows
    # level 1: base 1 of 2, tuned 2 and 1 of 2; level 2: base 0, tuned 1 of 2 twice
    assert first[4:] == ("1", "2", "50.0", "75.0 ± 35.4", "+25.0 ± 35.4", "1.0", "0.5")
    assert second[4:] == ("2", "2", "0.0", "50.0 ± 0.0", "+50.0 ± 0.0", "1.0", "0.0")
    assert "by level" in breakdown_text(records)
    names = {p.name for p in write_summary(records, tmp_path)}
    assert {"by_level.txt", "by_level.tex", "table.csv"} <= names


def test_tasks_without_columns_have_no_breakdown() -> None:
    assert breakdown_tables([record(0, bits("10"), bits("11"))]) == []


def test_a_failed_record_that_does_not_know_its_weights_is_counted_in_its_cell() -> None:
    good = record(0, bits("10"), bits("11"))
    bad = record(1, status="failed", alpha=None, config={"method": {"name": "s0", "n_steps": 20, "alpha": 0.3}},
                 model_info={}, task_info={}, error="boom")  # fmt: skip
    good = dataclasses.replace(good, config={"method": {"name": "s0", "n_steps": 20, "alpha": 0.3}})
    (row,) = aggregate([good, bad])
    assert (row.label, row.n_seeds, dict(row.status)) == ("s0", 1, {"ok": 1, "failed": 1})
