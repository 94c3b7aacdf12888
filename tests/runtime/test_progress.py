"""Progress: plain lines with rate and time left where there is no terminal, bars inside bars where there is one."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from s0.runtime.progress import Plain, bar

ROOT = Path(__file__).parents[2]


def test_without_a_terminal_there_is_one_plain_line_at_the_end(capsys) -> None:
    with bar("sample", 4, "completions") as outer:
        outer.advance(4)
        with bar("verify", 2, "answers") as inner:
            inner.advance(2)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("  verify: 2/2 answers in ")
    assert second.startswith("  sample: 4/4 completions in ")
    assert "left" not in second


def test_rate_and_time_left() -> None:
    plain = Plain("train", None, "steps")
    plain.to(11, 20)  # resumed after step 10
    plain.to(12, 20)
    plain.note("mean loss 0.5")
    assert plain.line(4.0) == "  train: 12/20 steps in 4.0 s (0.5/s, 16 s left, mean loss 0.5)"
    assert plain.line(4.0, end=True) == "  train: 12/20 steps in 4.0 s (0.5/s, mean loss 0.5)"


def on_a_terminal(columns: int) -> str:
    """What nested bars show on a terminal of this width."""
    code = (
        "from s0.runtime.progress import bar\n"
        "with bar('sample', 4, 'completions') as a:\n"
        "    a.advance(2)\n"
        "    with bar('verify', None, 'answers') as b:\n"
        "        b.to(1, 2); b.note('fine'); b.to(2, 2)\n"
        "    a.advance(2)\n"
        "with bar('train', None, 'steps') as c:\n"
        "    c.to(3, 3)\n"
    )
    parent, child = pty.openpty()
    done = subprocess.run([sys.executable, "-c", code], stdout=child, stderr=subprocess.PIPE, cwd=ROOT, check=False,
                          env={**os.environ, "COLUMNS": str(columns)})  # fmt: skip
    os.close(child)
    text = b""
    try:
        while chunk := os.read(parent, 65536):
            text += chunk
    except OSError:  # the terminal is gone with its last writer
        pass
    os.close(parent)
    assert done.returncode == 0, done.stderr
    return text.decode()


def test_on_a_terminal_there_are_bars_and_nothing_fails_when_they_are_nested() -> None:
    shown = on_a_terminal(120)
    for words in ("sample", "4/4", "verify", "2/2", "fine", "train", "3/3"):
        assert words in shown


def test_at_80_columns_bars_keep_their_width_and_name() -> None:
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", on_a_terminal(80)))
    assert max(map(len, lines)) <= 80
    assert any("sample" in line and "━" * 12 in line and "4/4" in line for line in lines)
