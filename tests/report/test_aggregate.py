"""From records to rows: what is averaged, what never is, and what the table says about it."""

from __future__ import annotations

import csv
import dataclasses
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import bits, evaluation, record

from s0 import stats
from s0.errors import StoreError
from s0.report import aggregate, load_records, summary_table, write_summary
from s0.report.aggregate import compact_seeds, difference_matrix
from s0.storage.records import Record, TrainingSummary, write_record

BASE = bits("1100000000")
SCRIPT = Path(__file__).parents[2] / "scripts" / "aggregate.py"


def seeds(**kw):
    tuned = ["1111110000", "1111100000", "1011111100"]
    return [record(i, BASE, bits(t), bits("1100000000"), **kw) for i, t in enumerate(tuned)]


def test_row_equals_a_hand_count() -> None:
    (row,) = aggregate(seeds())
    assert row.n_seeds == 3
    assert row.base.mean == pytest.approx(20)
    assert row.tuned.mean == pytest.approx((60 + 50 + 70) / 3)
    assert row.delta.mean == pytest.approx(40)
    assert row.delta.std == pytest.approx(10)
    assert (row.solved.mean, row.broken.mean) == (pytest.approx((4 + 3 + 6) / 3), pytest.approx(1 / 3))
    assert row.control.mean == pytest.approx(0)
    assert row.welch_p == pytest.approx(stats.welch([60, 50, 70], [20, 20, 20]).p_value)
    assert row.paired_p == pytest.approx(stats.one_sample_t([40, 30, 50]).p_value)
    assert row.interval.low < 40 < row.interval.high
    found = stats.crossed(difference_matrix(seeds()))
    assert (row.p_value, row.p_holm, row.n_family) == (found.p_value, found.p_value, 1)
    assert (row.interval.low, row.interval.high) == pytest.approx((100 * found.interval.low, 100 * found.interval.high))


def test_shared_baseline_is_said_in_the_table() -> None:
    shared = seeds(baseline_key="same")
    (row,) = aggregate(shared)
    assert row.shared_baseline
    text = summary_table(shared)
    assert "3 seeds share one baseline evaluation" in text
    assert "over seeds only, for these very problems" in text
    own = summary_table(seeds())
    assert "share" not in own
    assert "each seed has its own baseline evaluation" in own


def test_unfinished_records_are_counted_and_never_averaged() -> None:
    lost = [
        record(3, None, None, status="no_solutions", error="nothing passed"),
        record(4, BASE, None, status="failed", error="boom"),
    ]
    (row,) = aggregate(seeds() + lost)
    assert row.n_seeds == 3
    assert row.delta.mean == pytest.approx(40)
    assert dict(row.status) == {"ok": 3, "no_solutions": 1, "failed": 1}
    assert "2 record(s) did not finish" in summary_table(seeds() + lost)


def test_only_unfinished_records_make_a_row_of_dashes() -> None:
    (row,) = aggregate([record(0, status="failed", error="boom")])
    assert math.isnan(row.delta.mean)
    assert "1 failed" in summary_table([record(0, status="failed", error="boom")])


def test_cells_are_not_mixed() -> None:
    other = {
        "alpha": {"alpha": 0.5},
        "label": {"label": "lora_r24"},
        "model": {"model": "tiny_mamba2"},
        "task": {"task": "humaneval"},
        "experiment": {"experiment": "table1_main"},
        "settings": {"config": {"method": {"name": "s0", "n_steps": 40}}},
        "weights": {"model_info": {"weights_sha256": "other"}},
    }
    for name, changed in other.items():
        rows = aggregate(seeds() + seeds(**changed))
        assert len(rows) == 2, name
        assert [r.n_seeds for r in rows] == [3, 3], name


def test_different_padding_is_a_different_cell() -> None:
    legacy = record(0, evaluation(BASE, padding="legacy"), evaluation(BASE, padding="legacy"), key="legacy")
    rows = aggregate([*seeds(), legacy])
    assert [r.padding for r in rows] == ["exact", "legacy"]
    assert "legacy padding" in summary_table([*seeds(), legacy])


def test_engine_and_folders_do_not_split_a_cell() -> None:
    a = record(0, BASE, BASE, config={"method": {"name": "s0"}, "engine": {"batch_size": 1}, "store": {"dir": "a"}})
    b = record(1, BASE, BASE, config={"method": {"name": "s0"}, "engine": {"batch_size": 9}, "store": {"dir": "b"}})
    assert len(aggregate([a, b])) == 1


def test_auto_alpha_is_one_cell_although_seeds_chose_differently() -> None:
    auto = [
        record(i, BASE, BASE, alpha=a, training=TrainingSummary(alpha=a, alpha_source="auto"))
        for i, a in enumerate([0.1, 0.3])
    ]
    (row,) = aggregate(auto)
    assert row.alpha == "auto"


def test_the_same_record_twice_counts_once() -> None:
    (row,) = aggregate(seeds() + seeds())
    assert row.n_seeds == 3


def test_a_seed_run_again_replaces_the_older_run() -> None:
    newer = record(0, BASE, BASE, created="2025-02-01T00:00:00+00:00")
    (row,) = aggregate([newer, *seeds()])
    assert row.n_seeds == 3
    assert row.n_superseded == 1
    assert row.delta.mean == pytest.approx((0 + 30 + 50) / 3)
    assert "1 older record" in summary_table([newer, *seeds()])


def test_one_seed_has_no_spread_and_no_test_but_an_interval_over_problems() -> None:
    (row,) = aggregate(seeds()[:1])
    assert math.isnan(row.delta.std)
    assert math.isnan(row.welch_p)
    assert row.interval.over == "problems"
    assert row.mcnemar_p == pytest.approx(stats.mcnemar(4, 0).p_value)
    text = summary_table(seeds()[:1])
    assert "one seed, exact McNemar p = 0.12 over its problems" in text
    assert "p, 95% CI: over problems (one seed)." in text


def test_identical_runs_make_no_claim() -> None:
    same = [record(i, BASE, BASE) for i in range(3)]
    (row,) = aggregate(same)
    assert row.welch_p == 1.0
    assert summary_table(same)


def test_baseline_only_records() -> None:
    (row,) = aggregate([record(0, BASE, method="none", alpha=None)])
    assert row.base.mean == pytest.approx(20)
    assert row.tuned.n == 0


def test_compact_seeds() -> None:
    assert compact_seeds([7, 0, 2, 1, 9, 8]) == "0..2,7..9"
    assert compact_seeds([42, 7, 8]) == "7,8,42"
    assert compact_seeds([]) == ""


def sweep() -> list[Record]:
    """Three methods' worth of cells: a sweep over alphas and layers, a sampled one, an unfinished run, ties in time."""
    found = [*seeds(baseline_key="same"), *seeds(label="lora_r24", method="lora", alpha=None)]
    found += [r for a in (0.1, 1.0, 10.0) for r in seeds(alpha=a)]
    found += [record(0, BASE, bits("1110000000"), config={"method": {"name": "s0", "layers": "early"}}, alpha=0.3)]
    found += [record(s, BASE, bits("1110000000"), label="lora_r8", method="lora", alpha=None) for s in (10, 9, 2)]
    found += [record(5, status="failed", error="boom"), record(0, BASE, bits("1111000000"), key="again")]
    return found


def test_shuffled_records_give_the_same_bytes(tmp_path: Path) -> None:
    records = sweep()
    expected: dict[str, bytes] = {}
    for trial in range(4):
        random.Random(trial).shuffle(records)
        found = {p.name: p.read_bytes() for p in write_summary(records, tmp_path / str(trial)) if p.suffix != ".pdf"}
        found["screen"] = summary_table(records).encode()
        expected = expected or found
        assert found == expected


def test_a_folder_and_a_run_in_memory_give_the_same_table(tmp_path: Path) -> None:
    """Files come by name (seed 10 before 2), a run's records as they finish."""
    for r in reversed(sweep()):
        write_record(tmp_path, r)
    assert summary_table(load_records([tmp_path])) == summary_table(sweep())


def test_rows_stand_in_the_stated_order() -> None:
    rows = aggregate(sweep()[::-1])
    assert [(r.label.split(" ")[0], r.alpha) for r in rows if "[" not in r.label] == [
        ("lora_r8", ""), ("lora_r24", ""), ("s0", "0.1"), ("s0", "1"), ("s0", "10")]  # fmt: skip


def test_a_sweep_is_adjusted_with_holm_and_says_so() -> None:
    rows = aggregate([*seeds(alpha=0.1), *seeds(alpha=0.5), *seeds(alpha=1.0, label="s0_late")])
    assert [r.n_family for r in rows] == [3, 3, 3]
    assert [r.p_holm for r in rows] == pytest.approx(stats.holm([r.p_value for r in rows]))
    assert [r.p_holm for r in rows] == pytest.approx([3 * r.p_value for r in rows])
    text = summary_table([*seeds(alpha=0.1), *seeds(alpha=0.5)])
    assert "Holm-adjusted" in text
    assert "95% CI not adjusted" in text
    assert "Holm" not in summary_table([*seeds(), *seeds(label="lora_r24", method="lora")])


def test_no_flip_has_an_exact_interval_and_p_one() -> None:
    (row,) = aggregate([record(i, BASE, BASE) for i in range(3)])
    bound = 100 * (1 - 0.025**0.1)
    assert (row.interval.low, row.interval.high, row.p_value) == pytest.approx((-bound, bound, 1.0))


def test_seeds_that_all_agree_have_a_p() -> None:
    (row,) = aggregate([record(i, BASE, bits("1111111111"), baseline_key="same") for i in range(3)])
    assert math.isnan(row.welch_p)
    assert 0 < row.p_value < 0.05


def test_auto_alpha_shows_what_was_chosen_and_warns_at_the_edge() -> None:
    scores = {"0.1": 0.2, "0.3": 0.3, "1": 0.5}
    auto = [
        record(i, BASE, BASE, alpha=a, training=TrainingSummary(alpha=a, alpha_source="auto", alpha_scores=scores))
        for i, a in enumerate([0.3, 1.0, 1.0])
    ]
    (row,) = aggregate(auto)
    assert (row.alpha, row.alpha_text, row.n_alpha_at_edge) == ("auto", "1 (0.3–1)", 2)
    text = summary_table(auto)
    assert "α=1 (0.3–1)" in text
    assert "2 of 3 seeds chose an alpha at an end of its grid" in text
    assert "end of its grid" not in summary_table(auto[:1])


def test_different_problem_sets_are_said_and_have_no_p_over_problems() -> None:
    other = evaluation(BASE)
    other.outcomes[0] = dataclasses.replace(other.outcomes[0], problem_id="Q/0")
    mixed = [*seeds(), record(3, other, other)]
    (row,) = aggregate(mixed)
    assert not row.same_problems
    assert row.interval.over == "seeds"
    assert row.p_value == row.paired_p
    assert "seeds were evaluated on different problems" in summary_table(mixed)


def test_every_p_has_a_column_of_its_own_in_data_files(tmp_path: Path) -> None:
    write_summary(seeds(), tmp_path)
    (row,) = csv.DictReader((tmp_path / "table.csv").open())
    (cell,) = aggregate(seeds())
    for name, value in (("p_seeds_and_problems", cell.p_value), ("p_holm", cell.p_holm),
                        ("welch_p_seeds_only", cell.welch_p), ("paired_p_seeds_only", cell.paired_p)):  # fmt: skip
        assert float(row[name]) == pytest.approx(value, rel=1e-9)
    assert row["p_problems_one_seed"] == ""


def test_write_summary_writes_every_form(tmp_path: Path) -> None:
    paths = write_summary(seeds(baseline_key="same"), tmp_path / "new" / "folder")
    assert {p.suffix for p in paths} == {".txt", ".md", ".csv", ".tex", ".png", ".pdf"}
    assert all(p.stat().st_size > 100 for p in paths)
    rows = list(csv.DictReader((tmp_path / "new" / "folder" / "table.csv").open()))
    assert (float(rows[0]["delta_pp"]), float(rows[0]["delta_std"])) == (40, 10)
    assert "+40.0 ± 10.0" in (tmp_path / "new" / "folder" / "table.md").read_text()
    tex = (tmp_path / "new" / "folder" / "table.tex").read_text()
    assert r"\toprule" in tex
    assert r"tiny\_gdn" in tex
    assert tex.isascii()


def test_write_summary_is_deterministic(tmp_path: Path) -> None:
    first, second = write_summary(seeds(), tmp_path / "a"), write_summary(seeds(), tmp_path / "b")
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


def test_no_records(tmp_path: Path) -> None:
    assert summary_table([]) == "no records\n"
    assert write_summary([], tmp_path / "x") == []


def test_importing_the_report_does_not_import_matplotlib_or_scipy() -> None:
    code = "import sys, s0.report; print([m for m in ('matplotlib', 'scipy', 'torch', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_attack_label_with_latex_and_markdown_syntax(tmp_path: Path) -> None:
    nasty = r"s0_{x}|\input{/etc/passwd} 50% & $y$"
    write_summary([record(0, BASE, BASE, label=nasty)], tmp_path)
    tex = (tmp_path / "table.tex").read_text()
    assert r"\input" not in tex
    assert r"\textbackslash{}input" in tex
    line = next(ln for ln in (tmp_path / "table.md").read_text().splitlines() if "s0_{x}" in ln)
    assert r"\|" in line


def test_script_over_a_folder(tmp_path: Path) -> None:
    for r in seeds():
        write_record(tmp_path / "records", r)
    command = [sys.executable, str(SCRIPT), str(tmp_path / "records"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "+40.0 ± 10.0" in done.stdout
    assert (tmp_path / "out" / "summary.png").exists()


def test_script_without_records_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1


def test_load_records_refuses_a_torn_file(tmp_path: Path) -> None:
    path = write_record(tmp_path, seeds()[0])
    path.write_text(path.read_text()[:200])
    with pytest.raises(StoreError, match="not a readable record"):
        load_records([tmp_path])
