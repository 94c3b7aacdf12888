"""Numbers, escapes, and the four forms of a table."""

from __future__ import annotations

import csv
import io
import math
import re

import pytest

from s0.errors import StoreError
from s0.report.formats import Table, csv_cell, csv_text, latex, latex_escape, markdown, number, p_text, plain, spread
from s0.stats import MeanStd


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [(1.25, False, "1.2"), (-0.04, False, "0.0"), (-0.04, True, "+0.0"), (3.0, True, "+3.0"), (math.nan, True, "–")],
)
def test_number(value: float, sign: bool, text: str) -> None:
    assert number(value, sign=sign) == text


def test_spread_without_a_spread_is_the_mean() -> None:
    assert spread(MeanStd(1.0, 0.5, 3)) == "1.0 ± 0.5"
    assert spread(MeanStd(1.0, math.nan, 1)) == "1.0"


@pytest.mark.parametrize(
    ("p", "text"), [(0.5, "0.5"), (0.0123, "0.012"), (3.2e-4, "3.2e-04"), (0.0, "<1e-12"), (math.nan, "–")]
)
def test_p_text(p: float, text: str) -> None:
    assert p_text(p) == text


@pytest.mark.parametrize("text", [r"\input{/etc/passwd}", "100% & $x_1^2$ #~{}", "日本 é", "\\\\"])
def test_attack_latex_escape_leaves_no_command(text: str) -> None:
    escaped = latex_escape(text)
    assert escaped.isascii()
    for known in (r"\textbackslash{}", r"\{", r"\}", r"\&", r"\%", r"\$", r"\#", r"\_", r"\textasciitilde{}",
                  r"\textasciicircum{}"):  # fmt: skip
        escaped = escaped.replace(known, "")
    assert not set("\\{}&%$#_^~") & set(escaped)


def table() -> Table:
    rows = (("a|b", "-1.5 ± 0.2"), ("c", "not run"))
    return Table("Title", ("name", "embedded Δ"), rows, ("a note",), frozenset({1}))


def test_forms() -> None:
    assert "Title" in plain(table())
    assert r"a\|b" in markdown(table())
    assert list(csv.reader(io.StringIO(csv_text(table()))))[1] == ["a|b", "-1.5 ± 0.2"]
    tex = latex(table(), caption=True, label="tab:x")
    assert r"$-$1.5 $\pm$ 0.2" in tex
    assert r"\shortstack[r]{embedded\\$\Delta$}" in tex
    assert r"\label{tab:x}" in tex


def test_a_row_of_the_wrong_width_is_refused() -> None:
    with pytest.raises(ValueError, match="has 1 cells, need 2"):
        Table("t", ("a", "b"), (("x",),))


HOSTILE = (
    "=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "<script>alert(1)</script>",
    "<img src=x onerror=y>", "&#106;", "[x](javascript:y)", "![x](http://y)", "\x1b[2J\x1b]0;title\x07",
    "\u202eevil\u2066", "a\u2028b\x85c", "\ud800", "\x9b31m",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_attack_cells_are_harmless_in_every_form(text):
    hostile = Table(text, (text, "n"), ((text, "1"),), (text,))
    forms = {form: form(hostile) for form in (plain, markdown, csv_text, latex)}
    for form, written in forms.items():
        written.encode()
        assert not set("\x1b\x9b\x07\x85\r\t\u202e\u2066\u2028") & set(written), form
    for row in csv.reader(io.StringIO(forms[csv_text])):
        assert row[0].lstrip(" ")[:1] not in ("=", "+", "-", "@")
    assert not re.search(r"<[A-Za-z/!?]|&[#A-Za-z](?!t;|mp;)|[^\\]\]\(", forms[markdown])


@pytest.mark.parametrize(
    "text", ["-1.5 ± 0.2", "+3.0", "-0.4", "1.1e-05", "<1e-12", "-12%", "–", "a & b < c", "s0 [r=3]"]
)
def test_numbers_and_comparisons_stay_as_they_are(text):
    assert csv_cell(text) == text
    assert f"| {text} |" in markdown(Table("t", ("c",), ((text,),)))


def test_attack_errors_do_not_drive_the_terminal():
    assert str(StoreError("a\x1b[31mb\u202ec")) == "a\\x1b[31mb\\u202ec"
