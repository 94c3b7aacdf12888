"""When two SQL results count as the same, and the text preparation that goes with it.

`official` follows the Spider test suite (Zhong et al. 2020, github.com/taoyds/test-suite-sql-eval): bags of rows, row order
only where the gold query has ORDER BY, columns in any order, values compared as Python values (1 = 1.0, '1' != 1).
`set` is the published S0 evaluation: sets of rows, columns in the given order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

SqlRows = Sequence[tuple[Any, ...]]

#: backtracking steps of one column match; real results need a handful, an adversarial table must not stop the evaluation
MAX_STEPS = 20_000

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


def same_set(gold: SqlRows, predicted: SqlRows) -> bool:
    """Equality as sets of rows: order and duplicates ignored, permuted columns not accepted."""
    return set(gold) == set(predicted)


def same_official(gold: SqlRows, predicted: SqlRows, ordered: bool) -> bool:
    """Equality under some permutation of the predicted columns, as lists (`ordered`) or as bags of rows.

    Two empty results are equal whatever their columns. Raises TimeoutError where MAX_STEPS do not decide.
    """
    if not gold and not predicted:
        return True
    if len(gold) != len(predicted) or len(gold[0]) != len(predicted[0]):
        return False
    left, right = list(zip(*gold, strict=True)), list(zip(*predicted, strict=True))
    if ordered:
        # A permutation that makes the lists equal is a pairing of equal columns, so the bags of columns decide.
        return Counter(left) == Counter(right)
    return _same_bag(left, right)


def _same_bag(left: list[tuple[Any, ...]], right: list[tuple[Any, ...]]) -> bool:
    """Is there a bijection of columns that makes the bags of rows equal? Columns are tuples over the rows.

    A column can only pair with one that holds the same values equally often. Pairs are tried one by one; after each, the rows
    read so far must agree as bags, which cuts off wrong branches at once.
    """
    bags = [Counter(column) for column in right]
    candidates = [[j for j, bag in enumerate(bags) if bag == Counter(column)] for column in left]
    # The columns with most distinct values tell rows apart soonest.
    order = sorted(range(len(left)), key=lambda i: (len(candidates[i]), -len(set(left[i]))))
    steps = 0

    def extend(depth: int, used: frozenset[int], left_rows: list[int], right_rows: list[int]) -> bool:
        nonlocal steps
        if depth == len(order):
            return True
        column, tried = left[order[depth]], set()
        for j in candidates[order[depth]]:
            # Equal columns are interchangeable: one of them is enough.
            if j in used or right[j] in tried:
                continue
            tried.add(right[j])
            steps += 1
            if steps > MAX_STEPS:
                raise TimeoutError(f"column matching undecided after {MAX_STEPS} steps")
            classes: dict[tuple[int, Any], int] = {}
            new_left = [classes.setdefault(key, len(classes)) for key in zip(left_rows, column, strict=True)]
            new_right = [classes.setdefault(key, len(classes)) for key in zip(right_rows, right[j], strict=True)]
            if Counter(new_left) == Counter(new_right) and extend(depth + 1, used | {j}, new_left, new_right):
                return True
        return False

    start = [0] * len(left[0]) if left else []
    return extend(0, frozenset(), start, start)
