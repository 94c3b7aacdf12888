"""The HTML page: what it holds, and that nothing a model wrote can become markup or run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from synthetic import bits, evaluation, record

from s0.errors import StoreError
from s0.report.html import read_prompts, render, script_json, write_report
from s0.storage.records import TrainingSummary, read_record, write_record

SCRIPT = Path(__file__).parents[2] / "scripts" / "report.py"
NASTY = [
    "</script><script>window.pwned = 1</script>",
    "<img src=x onerror=window.pwned=1>",
    "<!--<script>",
    "-->]]></pre></body></html>",
    "@DATA@ @SCRIPT@ @TITLE@",
    "\u2028\u2029\x00\x08\ud800 \\u003c/script>",
    "${window.pwned=1} `'\"&lt;&amp;",
    "<svg onload=window.pwned=1><style>body{display:none}</style>",
    "javascript:window.pwned=1",
    "{{constructor.constructor('window.pwned=1')()}}",
]
BASE, TUNED = bits("1100000000"), bits("1011111000")
PROMPTS = {("minieval", f"P/{i}"): f"prompt {i} {text}" for i, text in enumerate(NASTY)}

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")


def nasty_records():
    markup = "<b onclick=window.pwned=1>x</b>"
    losses = {"losses": [2.0, 1.0, 0.5], "grad_norms": [1.0, 0.5, 0.2], "alpha_scores": {"0.1": 0.5, "0.3": 0.7}}
    done = [
        record(
            seed,
            evaluation(BASE, texts=NASTY),
            evaluation(TUNED, texts=NASTY[::-1]),
            alpha=alpha,
            model=markup,
            label=f"s0 {markup}",
            training=TrainingSummary(**losses),
            baseline_key="same",
        )
        for seed in (0, 1)
        for alpha in (0.1, 0.3)
    ]
    return [*done, record(2, status="failed", error=f"it broke {markup}", model=markup, label=f"s0 {markup}")]


def payload(page: str):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_payload_holds_every_problem_with_its_kind() -> None:
    data = payload(render(nasty_records(), PROMPTS))
    run = data["cells"][0]["runs"][0]
    assert [p[1] for p in run["problems"]] == ["solved", "broken", *["new"] * 5, *["unsolved"] * 3]
    assert data["strings"][run["problems"][0][3]] == NASTY[0]
    assert data["strings"][run["problems"][0][2]] == PROMPTS["minieval", "P/0"]
    assert "failed" in json.dumps(data["cells"])


def test_shared_text_is_stored_once() -> None:
    strings = payload(render(nasty_records(), PROMPTS))["strings"]
    assert len(strings) == len(set(strings))


@pytest.mark.parametrize("text", NASTY)
def test_attack_script_json_leaves_no_markup(text: str) -> None:
    escaped = script_json({"x": text})
    assert not set("<>&\u2028\u2029") & set(escaped)
    assert json.loads(escaped) == {"x": text}
    escaped.encode("utf-8")


def test_attack_completions_and_names_add_no_element() -> None:
    page = render(nasty_records(), PROMPTS, title="<script>window.pwned=1</script>")
    assert page.count("<script") == 2
    assert "<img" not in page
    assert "<b onclick" not in page


def test_page_fetches_nothing() -> None:
    page = render(nasty_records())
    assert "default-src 'none'" in page
    # namespaces are names, not addresses that are fetched
    assert not re.findall(
        r"""(?:src|href)\s*=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)""", page.split('id="data"')[0]
    )


def test_no_records_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no records"):
        write_report([tmp_path], tmp_path / "r.html")


def test_prompts_come_from_the_lines_beside_the_record(tmp_path: Path) -> None:
    write_record(tmp_path, record(0, BASE, TUNED), [{"problem_id": "P/0", "prompt": "the prompt"}])
    assert read_prompts([tmp_path]) == {("minieval", "P/0"): "the prompt"}


def test_torn_lines_beside_a_record_are_named(tmp_path: Path) -> None:
    path = write_record(tmp_path, record(0, BASE, TUNED), [{"problem_id": "P/0", "prompt": "p"}])
    path.with_suffix(".jsonl").write_text('{"problem_id": ')
    with pytest.raises(StoreError, match="not JSON lines"):
        read_prompts([tmp_path])


def test_script_writes_the_page(tmp_path: Path) -> None:
    write_record(tmp_path / "records", record(0, BASE, TUNED))
    out = tmp_path / "page.html"
    command = [sys.executable, str(SCRIPT), str(tmp_path / "records"), "-o", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    assert "tiny_gdn" in out.read_text()


@needs_chromium
def test_in_chromium_grid_details_and_curves(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(render(nasty_records(), PROMPTS), encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        assert browser.evaluate("document.body.dataset.ready") == "yes"
        assert browser.evaluate("document.querySelectorAll('.cells button').length") == 4 * len(NASTY)
        assert browser.evaluate("document.querySelectorAll('#training svg').length") == 2
        assert browser.evaluate("document.querySelectorAll('#alpha svg').length") == 2
        for i, text in enumerate(NASTY):
            browser.evaluate(f"document.querySelectorAll('.cells button')[{i}].click()")
            shown = browser.evaluate("[...document.querySelectorAll('#detail pre')].map(p => p.textContent)")
            assert shown == [PROMPTS["minieval", f"P/{i}"], text, NASTY[::-1][i]]
        browser.screenshot(tmp_path / "page.png")


@needs_chromium
def test_attack_in_chromium_nothing_runs(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(render(nasty_records(), PROMPTS, title=NASTY[1]), encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        browser.evaluate("document.querySelectorAll('.cells button').forEach(b => b.click())")
        assert browser.evaluate("typeof window.pwned") == "undefined"
        assert browser.evaluate("document.querySelectorAll('img, iframe, object, [onclick], [onerror]').length") == 0
        assert browser.evaluate("document.scripts.length") == 2
        # even markup that did get in could not run: the policy allows the page's own script alone
        browser.evaluate("document.body.insertAdjacentHTML('beforeend', '<a id=a onclick=\"window.pwned=1\">x</a>')")
        browser.evaluate("document.getElementById('a').click()")
        assert browser.evaluate("typeof window.pwned") == "undefined"


@needs_chromium
def test_in_chromium_no_records_with_curves(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(render([record(0, status="no_solutions", error="none passed")]), encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        assert browser.evaluate("document.body.dataset.ready") == "yes"
        assert "none passed" in browser.evaluate("document.getElementById('grid').textContent")


def test_a_line_separator_in_a_completion_does_not_end_its_line(tmp_path):
    """U+2028, U+2029 and U+0085 stand unescaped in the JSON lines the product writes."""
    text = "one\u2028two\u2029three\x85four\x0c\x1c"
    write_record(tmp_path, record(0, BASE, TUNED), [{"problem_id": "P/0", "prompt": text, "completion": text}])
    assert read_prompts([tmp_path]) == {("minieval", "P/0"): text}


def test_no_message_advises_deleting_a_file_of_the_user(tmp_path):
    (tmp_path / "README.md").write_text("# notes")
    with pytest.raises(StoreError) as caught:
        read_record(tmp_path / "README.md")
    assert "delete" not in str(caught.value)
