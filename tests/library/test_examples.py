"""The documentation's code runs as printed, and so does the demonstration script."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_library_page_runs_in_order(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 5
    names: dict[str, object] = {}
    for n, block in enumerate(blocks):
        exec(compile(block, f"docs/library.md, block {n + 1}", "exec"), names)


def _script():
    spec = importlib.util.spec_from_file_location("many_states", ROOT / "scripts" / "many_states.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_many_states_answer_in_one_batch(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert _script().main(["--prompts", "1", "--train", "6", "--steps", "16", "--repeats", "1"]) == 0
    out = capsys.readouterr().out
    assert "4 states of 12,288 numbers" in out
    assert "5 rows in one batch" in out
    assert "x the base model's time" in out
    # one prompt, different states, different answers: the wish of at least these two must show in the text
    assert "```python" in out
    assert "The function should return" in out


def test_many_states_refuses_a_wrong_number_in_one_line(capsys):
    assert _script().main(["--train", "81"]) == 2
    assert "between 1 and 80" in capsys.readouterr().err
