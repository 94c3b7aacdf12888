"""From records to rows: what is averaged, what never is, and what the table says about it."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import bits, evaluation, record

from s0 import stats
from s0.errors import StoreError
from s0.report import aggregate, load_records, summary_table, write_summary
from s0.report.aggregate import compact_seeds
from s0.storage.records import TrainingSummary, write_record

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


def test_shared_baseline_is_said_in_the_table() -> None:
    shared = seeds(baseline_key="same")
    (row,) = aggregate(shared)
    assert row.shared_baseline
    text = summary_table(shared)
    assert "3 seeds share one baseline evaluation" in text
    assert "not independent runs" in text
    assert "share" not in summary_table(seeds())


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
    assert "exact McNemar test over its problems p = 0.12" in summary_table(seeds()[:1])


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


def test_write_summary_writes_every_form(tmp_path: Path) -> None:
    paths = write_summary(seeds(baseline_key="same"), tmp_path / "new" / "folder")
    assert {p.suffix for p in paths} == {".txt", ".md", ".csv", ".tex", ".png", ".pdf"}
    assert all(p.stat().st_size > 100 for p in paths)
    rows = list(csv.DictReader((tmp_path / "new" / "folder" / "table.csv").open()))
    assert rows[0]["delta pp"] == "+40.0 ± 10.0"
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
