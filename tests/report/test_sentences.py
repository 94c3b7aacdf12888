"""The paper's sentences follow the numbers: opposite numbers give the opposite sentence, unclear ones claim nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from synthetic import bits, record

from s0.report.aggregate import aggregate
from s0.report.paper import sentences
from s0.report.paper.build import PaperPaths, build
from s0.report.paper.columns import mixed_notes, mixed_problems
from s0.report.paper.comparisons import published_sentence, tuned_difference
from s0.report.paper.context import Context
from s0.stats import Interval, MeanStd
from s0.storage.records import Record, write_record
from s0.storage.results import AnalysisResult, write_result

ROOT = Path(__file__).parents[2]
N = 84
LOW, HIGH = bits("1" * 20 + "0" * 64), bits("1" * 70 + "0" * 14)


def cells(base: list[bool], tuned: list[bool], method: str = "s0", n: int = 3, **kw: object) -> list[Record]:
    """Seeds of one cell on the same problems."""
    fields = {"method": method, "config": {"method": {"name": method}}, "baseline_key": "shared"} | kw
    return [record(seed, base, tuned, **fields) for seed in range(n)]


@pytest.mark.parametrize(
    ("ratios", "says", "never"),
    [
        ([0.01, 0.02, 0.01], "fades", "grows"),
        ([320.0, 330.0, 310.0], "grows", "fades"),
        ([0.3, 4.0, 0.9], "no clear change", "fades"),
        ([0.2], "one seed, no test", "fades"),
        ([0.0, 0.0, 0.0], "fades", "grows"),
        ([1.0, 1.0, 1.0], "no clear change", "fades"),
        ([], "not run", "fades"),
    ],
)
def test_the_state_fades_only_where_it_fades(ratios: list[float], says: str, never: str) -> None:
    text = sentences.decay("m", ratios)
    assert says in text
    assert never not in text


def test_the_published_decay_follows_its_number() -> None:
    assert "fades" in sentences.published_decay(0.03)
    assert "grows" in sentences.published_decay(250.0)


@pytest.mark.parametrize(
    ("deltas", "verdict"),
    [
        (
            [-13.0, -9.0, -20.0],
            "3 of 3 configurations lose accuracy and 0 gain, -14.0 ± 5.6 pp in the mean: a negative",
        ),
        (
            [10.7, 44.0, 41.7],
            "0 of 3 configurations lose accuracy and 3 gain, +32.1 ± 18.6 pp in the mean: no negative",
        ),
        ([-13.0, -9.0, 0.0], "2 of 3 configurations lose accuracy and 0 gain, -7.3 ± 6.7 pp in the mean: no negative"),
    ],
)
def test_a_control_that_is_not_negative_is_not_called_one(deltas: list[float], verdict: str) -> None:
    assert verdict in sentences.negative_control("m", deltas)


def test_effects_take_their_verb_from_the_interval() -> None:
    delta = MeanStd(4.0, 1.0, 5)
    assert (
        sentences.effect("S0", delta, Interval(4, 1, 7, "x"))
        == "S0 raises it by 4.0 ± 1.0 pp (95 % interval +1.0 to +7.0)"
    )
    assert (
        sentences.effect("S0", delta, Interval(4, -1, 9, "x"), shown=False) == "S0 shows no difference (+4.0 ± 1.0 pp)"
    )
    assert "lowers it by 4.0 ± 1.0" in sentences.effect("S0", MeanStd(-4.0, 1.0, 5), Interval(-4, -7, -1, "x"))
    nothing = sentences.effect(
        "S0", MeanStd(-13.9, float("nan"), 9), sentences.seed_interval(MeanStd(-13.9, float("nan"), 9))
    )
    assert nothing == "S0 -13.9 pp, without an interval"


def test_probe_alpha_and_grid_remarks_follow_the_numbers() -> None:
    high, low = [0.9, 0.92, 0.91], [0.7, 0.71, 0.72]
    assert "the recurrent state tells more" in sentences.probe_order("m", high, low)
    assert "the residual stream tells more" in sentences.probe_order("m", low, high)
    assert "no difference" in sentences.probe_order("m", high, high)
    assert "within a factor of two" in sentences.alpha_verdict("m", [0.9, 0.8], 1.0)
    assert "off by a factor of 33" in sentences.alpha_verdict("m", [0.03, 0.03], 1.0)
    assert sentences.at_edge(4.0, [0.1, 1.0, 4.0]) == "4 (an end of the grid)"
    assert sentences.at_edge(1.0, [0.1, 1.0, 4.0]) == "1"


def test_methods_are_ordered_by_a_paired_interval_and_not_by_their_means() -> None:
    better, worse = cells(LOW, HIGH), cells(LOW, LOW, "lora")
    assert "A is ahead of B" in sentences.comparison("A", "B", tuned_difference(better, worse))
    assert "A is behind B" in sentences.comparison("A", "B", tuned_difference(worse, better))
    close = cells(LOW, bits("1" * 69 + "01" + "0" * 13), "lora")
    assert "A and B do not differ" in sentences.comparison("A", "B", tuned_difference(better, close))
    other = cells(LOW[:40], HIGH[:40], "lora")
    assert "no comparison" in sentences.comparison("A", "B", tuned_difference(better, other))


def says(layout: PaperPaths, name: str) -> str:
    found = re.search(
        rf"\\{name}\}}\{{(.*)\}}\n", "".join(p.read_text() for p in (layout.paper / "generated").glob("*.tex"))
    )
    assert found, name
    return found[1]


def analysis(layout: PaperPaths, name: str, model: str, seed: int, values: dict[str, object]) -> None:
    write_result(layout.records / name, AnalysisResult(name, name, model, "minieval", seed, 0.3, values))


@pytest.mark.parametrize("sign", [1, -1])
def test_opposite_records_give_the_opposite_paper(sign: int, tmp_path: Path) -> None:
    """The whole text, from records that find what was published and from records that find its opposite."""
    layout = PaperPaths.of(ROOT, tmp_path / "paper", tmp_path / "records")
    before, after = (LOW, HIGH)[::sign], (HIGH, LOW)[::sign]
    for r in cells(before[0], after[0], experiment="table1_main", control=before[0]):
        write_record(layout.records / "table1_main", r)
    for r in cells(after[0], before[0], "prefix", experiment="prefix_control", model="tiny_transformer"):
        write_record(layout.records / "prefix_control", r)
    for seed in range(3):
        ratio = 0.02 if sign > 0 else 50.0
        curve = [ratio ** (t / 9) for t in range(10)]
        values = {
            "kl": curve,
            "ratio": curve,
            "predicted": curve,
            "end_ratio": ratio,
            "rate": 0.1 * sign,
            "predicted_rate": 0.1,
        }
        analysis(layout, "persistence", "tiny_gdn", seed, values)
    build(layout, ("table1_main", "prefix_control", "persistence"), say=lambda line: None)
    main, prefix, decay = (says(layout, n) for n in ("saysTinyGdn", "saysTinyPrefix", "saysTinyGdnPersistence"))
    assert ("S0 raises it by 59.5" in main, "S0 lowers it by 59.5" in main) == (sign > 0, sign < 0)
    assert ("fades" in decay, "grows" in decay) == (sign > 0, sign < 0)
    assert (": a negative control" in prefix, "no negative control" in prefix) == (sign > 0, sign < 0)


def test_opposite_published_figures_give_the_opposite_sentence(tmp_path: Path) -> None:
    head = "model,task,method,accuracy_pct,accuracy_std,delta_pp,delta_std,n\n"
    line = "qwen35_4b,humaneval,baseline,48.8,,,,10\nqwen35_4b,humaneval,s0,,,{},1.7,10\nqwen35_4b,humaneval,lora_r24,9.0,,,,3\n"
    texts = {}
    for delta in ("23.6", "-23.6", "0.4"):
        folder = tmp_path / delta
        folder.mkdir()
        (folder / "summary.csv").write_text(head + line.format(delta))
        texts[delta] = published_sentence(Context(tmp_path, folder), "qwen35_4b")
    assert "S0 raises it by 23.6 ± 1.7 pp, LoRA r24 reaches 9.0 %." in texts["23.6"]
    assert "S0 lowers it by 23.6 ± 1.7 pp" in texts["-23.6"]
    assert "S0 shows no difference (+0.4 ± 1.7 pp)" in texts["0.4"]


def test_no_sentence_of_the_text_claims_a_direction_by_itself() -> None:
    """Verbs of direction stand in generated sentences alone; the text and the titles of tables hold none."""
    text = (ROOT / "paper" / "s0_tuning.tex").read_text().split(r"\begin{document}")[1]
    text = text.replace("``raises'' and ``lowers''", "")
    claims = (
        r"\b(?:fades?|grows?|gains?|loses?|lost|raises?|lowers?|improves?|degrades?|[Nn]egative control|outperforms?)\b"
    )
    assert re.findall(claims, text) == []
    titles = [p.read_text().splitlines()[0] for p in (ROOT / "paper" / "tables").glob("*.md")]
    assert [t for t in titles if re.search(claims, t)] == []


def test_seeds_on_different_problems_are_noted() -> None:
    same = cells(LOW, HIGH)
    mixed = [
        *same[:2],
        record(2, LOW[:40], HIGH[:40], method="s0", config={"method": {"name": "s0"}}, baseline_key="b"),
    ]
    assert mixed_notes(aggregate(same)) == []
    (note,) = mixed_notes(aggregate(mixed))
    assert "Mixed problem sets" in note
    assert "s0 on tiny_gdn" in note
    assert mixed_problems(same) == []
    assert "2 different sets" in mixed_problems(mixed)[0]


def test_committed_text_is_what_the_committed_records_say() -> None:
    """The sentences in paper/generated are those of the manifest: nobody edited them."""
    import hashlib

    manifest = json.loads((ROOT / "paper" / "manifest.json").read_text())
    for item in manifest.values():
        for path, digest in item.get("outputs", {}).items():
            if path.endswith((".tex", ".csv", ".md")):
                assert hashlib.sha256((ROOT / "paper" / path).read_bytes()).hexdigest() == digest, path
