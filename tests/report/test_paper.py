"""The paper's builder: what is stale, what is up to date, and that no cell or number is invented."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from synthetic import bits, record

from s0.errors import ConfigError, S0Error
from s0.report.paper import build as builder
from s0.report.paper.build import PaperPaths, build, build_pdf, macro_text
from s0.report.paper.context import NOT_RUN, Context
from s0.report.paper.items import ITEMS
from s0.report.paper.mechanism import stars
from s0.report.paper.per_seed import pass_at
from s0.storage.records import read_record, write_record

ROOT = Path(__file__).parents[2]
TEX = ROOT / "paper" / "s0_tuning.tex"


def rows(layout: PaperPaths, stem: str) -> list[dict[str, str]]:
    with open(layout.paper / "tables" / f"{stem}.csv", newline="") as f:
        return list(csv.DictReader(f))


def quiet_build(layout: PaperPaths, *names: str) -> list[str]:
    return build(layout, names, say=lambda line: None)


def test_without_records_every_measured_cell_says_not_run(empty: PaperPaths) -> None:
    for path in (empty.paper / "tables").glob("*.csv"):
        for row in rows(empty, path.stem):
            for column, value in row.items():
                if column.startswith(("reproduced", "embedded", "pass@1 rep", "pass@1 emb")):
                    assert not re.search(r"\d", value), (path.stem, column, value)
    assert rows(empty, "table1_main")[1]["embedded Δ"] == NOT_RUN


def test_published_cells_are_the_published_figures(empty: PaperPaths) -> None:
    table = {(r["model"], r["method"]): r for r in rows(empty, "table1_main")}
    assert table["Qwen3.5-4B", "S0"]["published Δ"] == "+23.6 ± 1.7"
    assert table["Qwen3.5-4B", "baseline"]["published %"] == "48.8"
    assert {r["method"]: r["published negative"] for r in rows(empty, "table2_matched_lora")}["LoRA r64"] == "8 of 10"
    assert rows(empty, "table9_pass_at_k")[2]["pass@1 published"].startswith("70.3")
    assert {r["task"]: r["published Δ"] for r in rows(empty, "cross_domain")}["GSM8K"] == "+2.8 ± 1.6"


def test_recomputed_p_values_agree_with_the_published_ones(empty: PaperPaths) -> None:
    table = {r["comparison"]: r for r in rows(empty, "p_values")}
    assert float(table["s0 vs baseline (gsm8k)"]["recomputed p"]) == pytest.approx(3.18e-4, rel=0.02)
    assert float(table["s0 vs baseline (math500)"]["recomputed p"]) == pytest.approx(1.72e-5, rel=0.02)


def test_measured_cells_equal_the_records(full: PaperPaths) -> None:
    own = Context(full.records, full.published).of("table1_main", "tiny_gdn", label="s0")
    mean = sum(r.delta_pp for r in own) / len(own)
    row = next(r for r in rows(full, "table1_main") if (r["model"], r["method"]) == ("Qwen3.5-4B", "S0"))
    assert row["embedded Δ"].startswith(f"{mean:+.1f} ±")
    assert row["seeds"] == "3"


def test_second_build_does_nothing(full: PaperPaths) -> None:
    assert quiet_build(full) == []


def test_a_changed_record_rebuilds_what_reads_it_and_nothing_else(full: PaperPaths) -> None:
    path = next((full.records / "table5_layers").glob("*.json"))
    before = path.read_text()
    path.write_text(json.dumps(dataclasses.replace(read_record(path), created="2025-01-02T00:00:00Z").to_json()))
    assert quiet_build(full) == ["table5_layers"]
    path.write_text(before)
    assert quiet_build(full) == ["table5_layers"]


def test_a_new_record_rebuilds(full: PaperPaths) -> None:
    path = write_record(full.records / "prefix_control", record(9, bits("1" * 84), bits("0" * 84), method="prefix",
                        experiment="prefix_control", model="tiny_transformer", alpha=None))  # fmt: skip
    assert quiet_build(full) == ["prefix_control"]
    path.unlink()
    assert quiet_build(full) == ["prefix_control"]


def test_attack_hand_edited_output_is_rebuilt(full: PaperPaths) -> None:
    path = full.paper / "tables" / "table1_main.tex"
    before = path.read_text()
    path.write_text(before.replace("23.6", "99.9"))
    assert quiet_build(full) == ["table1_main"]
    assert path.read_text() == before
    (full.paper / "figures" / "fig2.png").unlink()
    assert quiet_build(full) == ["fig2"]


def test_torn_manifest_means_everything_is_stale(empty: PaperPaths) -> None:
    (empty.paper / "manifest.json").write_text('{"table1')
    assert quiet_build(empty) == list(ITEMS)


def test_attack_torn_record_fails_its_items_and_builds_the_others(tmp_path: Path) -> None:
    layout = PaperPaths.of(ROOT, tmp_path / "paper", tmp_path / "records")
    path = write_record(layout.records / "table5_layers", record(0, bits("10"), bits("11")))
    path.write_text(path.read_text()[:99])
    with pytest.raises(S0Error, match=r"table5_layers.*not a readable record"):
        quiet_build(layout)
    assert not (layout.paper / "tables" / "table5_layers.csv").exists()
    assert (layout.paper / "tables" / "p_values.csv").exists()


def test_unknown_item_is_one_line_with_the_choices(empty: PaperPaths) -> None:
    with pytest.raises(ConfigError, match="choose from table1_main"):
        quiet_build(empty, "tabel1")


@pytest.mark.parametrize("which", ["empty", "full"])
def test_every_macro_of_the_text_is_generated(which: str, request) -> None:
    layout = request.getfixturevalue(which)
    generated = "".join(p.read_text() for p in (layout.paper / "generated").glob("*.tex"))
    defined = set(re.findall(r"\\newcommand\{\\(\w+)\}", generated))
    used = set(re.findall(r"\\((?:pub|rep|recomputed|says)[A-Z]\w*)", TEX.read_text()))
    assert used <= defined
    assert used


def test_the_text_holds_every_table_and_figure(empty: PaperPaths) -> None:
    text = TEX.read_text()
    for path in (empty.paper / "tables").glob("*.tex"):
        assert f"tables/{path.name}" in text
    for path in (empty.paper / "figures").glob("*.pdf"):
        assert f"figures/{path.name}" in text


def test_no_result_is_typed_into_the_text() -> None:
    body = TEX.read_text().split(r"\begin{document}")[1]
    body = re.sub(r"\\includegraphics\[[^]]*\]|\$p<0\.\d+\$|arXiv:\S+|Qwen3\.5", "", body)
    assert re.findall(r"\d+\.\d+|\d+\s*\\,?\\%|\d+\s*\\pp", body.replace("95\\,\\%", "")) == []


def test_macro_names_are_letters() -> None:
    assert macro_text({"pubX": "50 %"}) == "\\newcommand{\\pubX}{50 \\%}\n"
    with pytest.raises(ConfigError, match="letters only"):
        macro_text({"pub1": "x"})


def test_several_settings_of_one_method_are_not_one_number(tmp_path: Path) -> None:
    layout = PaperPaths.of(ROOT, tmp_path / "paper", tmp_path / "records")
    for lr in (1e-3, 1e-2):
        write_record(layout.records / "table1_main", record(0, bits("10"), bits("11"), experiment="table1_main",
                     config={"method": {"name": "s0", "lr": lr}}))  # fmt: skip
    quiet_build(layout, "table1_main")
    labels = [r["method"] for r in rows(layout, "table1_main") if r["embedded Δ"] not in (NOT_RUN, "–")]
    assert labels == ["S0 [lr=0.001]", "S0 [lr=0.01]"]
    assert (
        r"\newcommand{\repTinyGdnSzeroDelta}{not run}" in (layout.paper / "generated" / "table1_main.tex").read_text()
    )


def test_pass_at_k_needs_k_samples() -> None:
    from synthetic import evaluation

    sampled = evaluation(bits("10"), protocol="sampled", n_samples=10)
    assert pass_at(sampled, 10) == 50.0
    assert pass_at(sampled, 11) is None
    assert pass_at(None, 1) is None


def test_stars() -> None:
    assert [stars(p) for p in (1e-4, 5e-3, 0.03, 0.2, float("nan"))] == ["***", "**", "*", "n.s.", ""]


def test_without_latex_one_line_says_what_to_install(empty: PaperPaths, monkeypatch) -> None:
    monkeypatch.setattr(builder.shutil, "which", lambda name: None)
    said: list[str] = []
    assert build_pdf(empty, said.append) is None
    assert len(said) == 1
    assert "texlive-latex-base texlive-latex-recommended texlive-fonts-recommended" in said[0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex: apt-get install texlive-latex-recommended")
@pytest.mark.parametrize("which", ["empty", "full"])
def test_pdf_builds_without_undefined_references_and_is_then_up_to_date(which: str, request) -> None:
    layout = request.getfixturevalue(which)
    quiet_build(layout)
    said: list[str] = []
    pdf = build_pdf(layout, said.append)
    assert pdf is not None
    assert pdf.read_bytes().startswith(b"%PDF")
    log = (layout.paper / "build" / "s0_tuning.log").read_text(errors="replace")
    assert "undefined" not in log
    assert "Overfull" not in log
    before = pdf.read_bytes()
    build_pdf(layout, said.append)
    assert said[-1] == "s0_tuning.pdf is up to date"
    pdf.unlink()
    rebuilt = build_pdf(layout, said.append)
    assert rebuilt is not None
    assert rebuilt.read_bytes() == before


def test_read_record_of_the_synthetic_set_round_trips(full: PaperPaths) -> None:
    path = next((full.records / "table1_main").glob("*.json"))
    assert read_record(path).experiment == "table1_main"
