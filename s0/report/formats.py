"""One table, four forms: plain text, Markdown, CSV and LaTeX (booktabs). Cells are strings; nothing is computed.

Cells may come from files and models. Each form is made harmless where it is written: no control or bidirectional characters
in any, no formulas in CSV, no markup in Markdown and LaTeX.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from s0.errors import printable
from s0.stats import MeanStd

MISSING = "–"
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "λ": r"$\lambda$",
    "α": r"$\alpha$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "·": r"$\cdot$",
    "Δ": r"$\Delta$",
    "∥": r"$\|$",
    "…": r"\dots{}",
}


@dataclass(frozen=True)
class Table:
    """`rows` of text under `columns`; `notes` stand below. `numeric` columns are aligned right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    numeric: frozenset[int] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: row {row!r} has {len(row)} cells, need {len(self.columns)}")

    def printable(self) -> Table:
        """The same table without characters that act on a terminal or reorder text."""
        rows = tuple(tuple(map(printable, row)) for row in self.rows)
        notes = tuple(printable(note, keep="\n") for note in self.notes)
        return Table(printable(self.title), tuple(map(printable, self.columns)), rows, notes, self.numeric)


def number(value: float, digits: int = 1, sign: bool = False) -> str:
    """A number with fixed decimals; the missing sign for NaN; no "-0.0"."""
    if math.isnan(value):
        return MISSING
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.replace("-", "+" if sign else "") if float(text) == 0 else text


def spread(value: MeanStd, digits: int = 1, sign: bool = False) -> str:
    """`mean ± std`; the mean alone where there is no spread."""
    text = number(value.mean, digits, sign)
    return text if math.isnan(value.std) else f"{text} ± {number(value.std, digits)}"


def p_text(p: float) -> str:
    """A p-value with two significant digits; below 1e-12 only the bound is meaningful."""
    if math.isnan(p):
        return MISSING
    if p < 1e-12:
        return "<1e-12"
    return f"{p:.2g}" if p >= 1e-3 else f"{p:.1e}"


def plain(table: Table) -> str:
    """Fixed-width text."""
    table = table.printable()
    lines = [table.columns, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]

    def render(line: Sequence[str]) -> str:
        cells = [
            c.rjust(w) if i in table.numeric else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    body = [table.title, rule, render(table.columns), rule, *(render(r) for r in table.rows), rule]
    return "\n".join([line for line in body if line] + list(table.notes)) + "\n"


#: what opens an HTML tag, comment or entity, or the target of a link or image; a comparison ("<1e-12", "a & b") does none
_MARKUP = re.compile(r"<(?=[A-Za-z/!?])|&(?=[A-Za-z#])|\](?=[(\[:])")
_ESCAPED = {"<": "&lt;", "&": "&amp;", "]": "\\]"}


def _no_markup(text: str) -> str:
    return _MARKUP.sub(lambda m: _ESCAPED[m[0]], text)


def markdown(table: Table) -> str:
    table = table.printable()

    def cell(text: str) -> str:
        return _no_markup(text.replace("\\", "\\\\").replace("|", "\\|"))

    align = ["---:" if i in table.numeric else "---" for i in range(len(table.columns))]
    lines = [f"**{_no_markup(table.title)}**", ""] if table.title else []
    for line in (table.columns, tuple(align), *table.rows):
        lines.append("| " + " | ".join(map(cell, line)) + " |")
    lines += [f"\n{_no_markup(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


#: a number, alone or as `mean ± std`: begins like a formula and is none
_NUMBER = re.compile(r"[-+]?\d[\d.]*(?:e[-+]?\d+)?%?(?: ± \d[\d.]*)?")


def csv_cell(text: str) -> str:
    """`text` with an apostrophe before what a spreadsheet would run as a formula (= + - @)."""
    text = printable(text)
    return f"'{text}" if text.lstrip(" ")[:1] in ("=", "+", "-", "@") and not _NUMBER.fullmatch(text) else text


def csv_text(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([csv_cell(cell) for cell in row] for row in (table.columns, *table.rows))
    return out.getvalue()


def latex_escape(text: str) -> str:
    """Text made safe for LaTeX with inputenc utf8; a character outside the table's own alphabet becomes "?"."""
    out = "".join(_LATEX.get(ch, ch) for ch in printable(text))
    return out.encode("ascii", "replace").decode() if not out.isascii() else out


def latex(table: Table, *, caption: bool = False, label: str = "") -> str:
    """A booktabs tabular; with `caption`, inside a table environment with caption and notes."""
    spec = "".join("r" if i in table.numeric else "l" for i in range(len(table.columns)))

    def render(line: Sequence[str]) -> str:
        return " & ".join(_signed(latex_escape(c)) for c in line) + r" \\"

    heads = " & ".join(_stacked(c, "r" if i in table.numeric else "l") for i, c in enumerate(table.columns)) + r" \\"
    body = [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", heads, r"\midrule"]
    body += [render(r) for r in table.rows] + [r"\bottomrule", r"\end{tabular}"]
    if not caption:
        return "\n".join(body) + "\n"
    notes = " ".join(latex_escape(n) for n in table.notes)
    # \fittable (defined by the paper) shrinks a wide table to the text width and leaves a narrow one alone
    fit = [r"\fittable{%", *body, r"}"]
    head = [r"\begin{table}[tbp]", r"\centering", r"\small", rf"\caption{{{latex_escape(table.title)}}}"]
    head += [rf"\label{{{label}}}"] if label else []
    tail = [r"\par\smallskip", rf"\parbox{{\textwidth}}{{\footnotesize {notes}}}"] if notes else []
    return "\n".join([*head, *fit, *tail, r"\end{table}"]) + "\n"


def _stacked(head: str, side: str) -> str:
    """A long column head on two lines, broken at the space nearest its middle: numbers are narrower than words."""
    spaces = [i for i, ch in enumerate(head) if ch == " "]
    if len(head) < 9 or not spaces:
        return latex_escape(head)
    cut = min(spaces, key=lambda i: abs(i - len(head) / 2))
    return rf"\shortstack[{side}]{{{latex_escape(head[:cut])}\\{latex_escape(head[cut + 1 :])}}}"


def _signed(text: str) -> str:
    """A leading hyphen before a digit is a minus sign."""
    return f"$-${text[1:]}" if len(text) > 1 and text[0] == "-" and text[1].isdigit() else text
