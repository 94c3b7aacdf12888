"""When two SQL results count as the same, and the text preparation that goes with it.

`official` follows the Spider test suite (Zhong et al. 2020, github.com/taoyds/test-suite-sql-eval): bags of rows, row order
only where the gold query has ORDER BY, columns in any order, values compared as Python values (1 = 1.0, '1' != 1).
`set` is the published S0 evaluation: sets of rows, columns in the given order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

SqlRows = Sequence[tuple[Any, ...]]

Rows = Sequence[tuple[Any, ...]]
Column = tuple[int, ...]

#: cells one column match may read beyond its first pass; real results need a handful of passes over their table, and an
#: adversarial one must not stop the evaluation
MAX_CELLS = 5_000_000

_TOKEN = re.compile(
    r"(?P<literal>'(?:[^']|'')*'?|\"(?:[^\"]|\"\")*\"?|`[^`]*`?|\[[^\]]*\]?)"
    r"|(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))|(?P<word>[^\W\d][\w$]*)|(?P<space>\s+)|(?P<other>\d[\w.]*|.)",
    re.DOTALL,
)


def tokens(sql: str) -> Iterator[tuple[str, str]]:
    """(kind, text) pieces that concatenate to `sql`; kind is literal (also quoted names), comment, word, space, other."""
    for match in _TOKEN.finditer(sql):
        yield str(match.lastgroup), match[0]


def strip_distinct(sql: str) -> str:
    """`sql` without the keyword DISTINCT (also inside aggregates, as the official script does it)."""
    return "".join(text for kind, text in tokens(sql) if not (kind == "word" and text.lower() == "distinct"))


def has_order_by(sql: str) -> bool:
    """Does ORDER BY occur anywhere, sub-queries included, literals and comments excluded?"""
    words = [text.lower() if kind == "word" else "" for kind, text in tokens(sql) if kind not in ("space", "comment")]
    return ("order", "by") in pairwise(words)


def prepare(sql: str, keep_distinct: bool) -> str:
    """What the official script does to gold and prediction alike before running them."""
    for spaced in ("> =", "< =", "! ="):
        sql = sql.replace(spaced, spaced.replace(" ", ""))
    sql = re.sub(r"YEAR\s*\(\s*CURDATE\s*\(\s*\)\s*\)\s*", "2020", sql, flags=re.IGNORECASE)
    return sql if keep_distinct else strip_distinct(sql)


def same_set(gold: Rows, predicted: Rows) -> bool:
    """Equality as sets of rows: order and duplicates ignored, permuted columns not accepted."""
    left, right = _numbered(gold, predicted)
    return set(left) == set(right)


def same_official(gold: Rows, predicted: Rows, ordered: bool) -> bool:
    """Equality under some permutation of the predicted columns, as lists (`ordered`) or as bags of rows.

    Two empty results are equal whatever their columns. Raises TimeoutError where MAX_CELLS do not decide.
    """
    if not gold and not predicted:
        return True
    if len(gold) != len(predicted) or len(gold[0]) != len(predicted[0]):
        return False
    left, right = (list(zip(*rows, strict=True)) for rows in _numbered(gold, predicted))
    if ordered:
        # A permutation that makes the lists equal is a pairing of equal columns, so the bags of columns decide.
        return Counter(left) == Counter(right)
    return _same_bag(left, right)


def _numbered(*tables: Iterable[Iterable[Any]]) -> list[list[tuple[int, ...]]]:
    """The tables with equal values replaced by equal numbers, counted from 0 in order of appearance.

    Values of one's choice make tuples whose hashes collide; numbers given here do not.
    """
    numbers: dict[Any, int] = {}
    return [[tuple([numbers.setdefault(value, len(numbers)) for value in row]) for row in rows] for rows in tables]


def _same_bag(left: list[Column], right: list[Column]) -> bool:
    """Is there a bijection of columns that makes the bags of rows equal? Columns are tuples of numbers over the rows.

    Equal columns go to equal columns under any such bijection, so each distinct column is paired once, with one of its own
    colour (`_colours`). Pairs are tried one by one, without recursion; after each, the rows read so far must agree as bags,
    which cuts off wrong branches at once.
    """
    if not left:
        return True
    sides = [Counter(left), Counter(right)]
    colours = _colours([list(side) for side in sides], [list(side.values()) for side in sides])
    if colours is None:
        return False
    partners: dict[int, list[Column]] = {}
    for column, colour in zip(sides[1], colours[1], strict=True):
        partners.setdefault(colour, []).append(column)
    order = [(column, partners[colour]) for column, colour in zip(sides[0], colours[0], strict=True)]
    # Columns with few partners first; of those, the ones with most distinct values tell rows apart soonest.
    order.sort(key=lambda pair: (len(pair[1]), -len(set(pair[0]))))
    return _pair(order)


def _colours(sides: list[list[Column]], times: list[list[int]]) -> list[list[int]] | None:
    """A number per column of each side such that every bijection in question maps a column to one of the same number;
    None where the numbers alone show that there is none.

    A column begins with how often it occurs and the bag of its values. While that splits further and MAX_CELLS allow, a row
    then takes the bag of its (column colour, value) and a column the bag of its (row colour, value).
    """
    keys: list[list[Any]] = [
        [(n, frozenset(Counter(column).items())) for n, column in zip(counts, columns, strict=True)]
        for counts, columns in zip(times, sides, strict=True)
    ]
    cells = sum(len(columns) * len(columns[0]) for columns in sides)
    spent, known = 0, 0
    while True:
        colours = _numbered(keys)[0]
        if Counter(colours[0]) != Counter(colours[1]):
            return None
        n = len(set(colours[0]))
        spent += 2 * cells
        if n in (known, len(sides[0])) or spent > MAX_CELLS:
            return [list(side) for side in colours]
        known = n
        rows = [
            [_bag(colour, row) for row in zip(*columns, strict=True)]
            for colour, columns in zip(colours, sides, strict=True)
        ]
        row_colours = _numbered(rows)[0]
        if Counter(row_colours[0]) != Counter(row_colours[1]):
            return None
        keys = [
            [(own, _bag(row_colour, column)) for own, column in zip(colour, columns, strict=True)]
            for colour, row_colour, columns in zip(colours, row_colours, sides, strict=True)
        ]


def _bag(colours: Sequence[int], values: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted(zip(colours, values, strict=True)))


def _pair(order: list[tuple[Column, list[Column]]]) -> bool:
    """Can each column be given one of its partners, no partner twice, so that the rows agree as bags? Depth first."""
    n_rows = len(order[0][0]) if order else 0
    cells = 0
    used: set[int] = set()  # identities of partners in use; they are distinct columns, so identity is equality
    #: per level: classes of the left and right rows by the columns paired so far, and the partners still to try
    levels = [([0] * n_rows, [0] * n_rows, iter(order[0][1]))] if order else []
    chosen: list[Column] = []
    while levels:
        left_rows, right_rows, partners = levels[-1]
        for partner in partners:
            if id(partner) in used:
                continue
            cells += n_rows
            if cells > MAX_CELLS:
                raise TimeoutError(f"column matching undecided after {MAX_CELLS} cells")
            classes: dict[tuple[int, int], int] = {}
            column = order[len(levels) - 1][0]
            new_left = [classes.setdefault(key, len(classes)) for key in zip(left_rows, column, strict=True)]
            new_right = [classes.setdefault(key, len(classes)) for key in zip(right_rows, partner, strict=True)]
            if Counter(new_left) != Counter(new_right):
                continue
            if len(levels) == len(order):
                return True
            used.add(id(partner))
            chosen.append(partner)
            levels.append((new_left, new_right, iter(order[len(levels)][1])))
            break
        else:
            levels.pop()
            if chosen:
                used.discard(id(chosen.pop()))
    return not order
