"""When two query results count as the same; verdicts from the definition, and a brute-force reference over permutations."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections import Counter

import pytest

from s0.tasks.sqlmatch import has_order_by, prepare, same_official, same_set, strip_distinct, tokens

N = None
# (gold rows, predicted rows, ordered, official, set)
CASES = [
    ([(1,)], [(1,)], False, True, True),
    ([(1,)], [(2,)], False, False, False),
    ([], [], False, True, True),
    ([], [(1,)], False, False, False),
    ([(1,)], [], False, False, False),
    # row order
    ([(1,), (2,)], [(2,), (1,)], False, True, True),
    ([(1,), (2,)], [(2,), (1,)], True, False, True),
    ([(1,), (2,)], [(1,), (2,)], True, True, True),
    ([(1, "a"), (2, "b")], [("b", 2), ("a", 1)], True, False, False),
    ([(1, "a"), (2, "b")], [("a", 1), ("b", 2)], True, True, False),
    # duplicates: bags, not sets
    ([(1,), (1,)], [(1,)], False, False, True),
    ([(1,)], [(1,), (1,)], False, False, True),
    ([(1,), (1,), (2,)], [(1,), (2,), (2,)], False, False, True),
    ([(1,), (1,), (2,)], [(2,), (1,), (1,)], False, True, True),
    # columns in any order
    ([(1, "a"), (2, "b")], [("a", 1), ("b", 2)], False, True, False),
    ([(1, 2, 3)], [(3, 1, 2)], False, True, False),
    ([(1, 2), (2, 1)], [(2, 1), (1, 2)], False, True, True),
    ([(1, 2), (3, 4)], [(2, 1), (3, 4)], False, False, False),
    ([(1, 2), (3, 4)], [(2, 1), (4, 3)], False, True, False),
    ([(1, 1), (2, 2)], [(1, 2), (2, 1)], False, False, False),
    ([(1, 2, 1), (2, 1, 2)], [(1, 1, 2), (2, 2, 1)], False, True, False),
    # number of columns
    ([(1, 2)], [(1,)], False, False, False),
    ([(1,)], [(1, 1)], False, False, False),
    ([(1, 1)], [(1,)], False, False, False),
    # values
    ([(1,)], [(1.0,)], False, True, True),
    ([(1,)], [("1",)], False, False, False),
    ([(N,)], [(N,)], False, True, True),
    ([(N,)], [(0,)], False, False, False),
    ([(N,)], [("",)], False, False, False),
    ([("a",)], [("A",)], False, False, False),
    ([("a",)], [("a ",)], False, False, False),
    ([(0.1 + 0.2,)], [(0.3,)], False, False, False),
    ([(b"x",)], [("x",)], False, False, False),
    ([(1, N), (N, 1)], [(N, 1), (1, N)], False, True, True),
    ([(2**62,)], [(2**62 + 1,)], False, False, False),
    # all columns have the same values, rows differ
    ([(0, 0), (1, 1)], [(0, 1), (1, 0)], False, False, False),
    ([(0, 0, 1), (0, 1, 0), (1, 0, 0)], [(0, 1, 0), (1, 0, 0), (0, 0, 1)], False, True, True),
    ([(0, 0, 1), (0, 1, 0), (1, 1, 1)], [(1, 1, 1), (0, 1, 0), (0, 0, 1)], True, False, True),
]


@pytest.mark.parametrize(("gold", "predicted", "ordered", "official", "as_set"), CASES)
def test_match_table(gold, predicted, ordered, official, as_set):
    assert same_official(gold, predicted, ordered) is official
    assert same_set(gold, predicted) is as_set


def brute_force(gold, predicted, ordered):
    """The definition: some permutation of the predicted columns makes the lists or the bags of rows equal."""
    if not gold and not predicted:
        return True
    if len(gold) != len(predicted) or len(gold[0]) != len(predicted[0]):
        return False
    for permutation in itertools.permutations(range(len(gold[0]))):
        rows = [tuple(row[i] for i in permutation) for row in predicted]
        if rows == gold if ordered else Counter(rows) == Counter(gold):
            return True
    return False


@pytest.mark.parametrize("ordered", [False, True])
def test_equals_brute_force_on_random_tables(ordered):
    rng = random.Random(7)
    seen = Counter()
    for _ in range(3000):
        columns, rows, values = (
            rng.randint(1, 5),
            rng.randint(0, 5),
            rng.choice(([0, 1], [0, 1, None], ["a", "b", 1, 1.0])),
        )
        gold = [tuple(rng.choice(values) for _ in range(columns)) for _ in range(rows)]
        permutation = rng.sample(range(columns), columns)
        predicted = [tuple(row[i] for i in permutation) for row in gold]
        if rng.random() < 0.5:
            rng.shuffle(predicted)
        if predicted and rng.random() < 0.5:
            i, j = rng.randrange(len(predicted)), rng.randrange(columns)
            predicted[i] = (*predicted[i][:j], rng.choice(values), *predicted[i][j + 1 :])
        expected = brute_force(gold, predicted, ordered)
        seen[expected] += 1
        assert same_official(gold, predicted, ordered) is expected, (gold, predicted)
    assert min(seen[True], seen[False]) > 300


def test_attack_many_boolean_columns_do_not_explode():
    """16 boolean columns with equal counts: 16! orders, decided by pruning."""
    rng = random.Random(3)
    columns = [tuple(rng.sample([0] * 20 + [1] * 20, 40)) for _ in range(16)]
    gold = list(zip(*columns, strict=True))
    shuffled = rng.sample(columns, 16)
    predicted = rng.sample(list(zip(*shuffled, strict=True)), 40)
    assert same_official(gold, predicted, False)
    broken = [list(row) for row in predicted]
    a, b = next((i, j) for i in range(40) for j in range(40) if broken[i][0] == 0 and broken[j][0] == 1)
    broken[a][0], broken[b][0] = 1, 0  # column bags unchanged, rows not
    assert not same_official(gold, [tuple(row) for row in broken], False)


def test_attack_identical_columns_do_not_explode():
    gold = [tuple([i % 2] * 30) for i in range(10)]
    assert same_official(gold, gold[::-1], False)
    other = [*gold[:-1], (*gold[-1][:-1], 1 - gold[-1][-1])]
    assert not same_official(gold, other, False)


def test_attack_symmetric_table_gives_up_instead_of_hanging():
    """Two regular graphs as incidence tables: no cheap invariant tells them apart, so the step limit must end the search."""

    def cycle_edges(*cycles):
        edges, start = [], 0
        for n in cycles:
            edges += [(start + i, start + (i + 1) % n) for i in range(n)]
            start += n
        return [tuple(int(v in edge) for v in range(start)) for edge in edges]

    with contextlib.suppress(TimeoutError):
        assert not same_official(cycle_edges(24), cycle_edges(12, 12), False)


def test_1500_equal_columns_need_no_recursion_and_no_pairwise_comparison():
    gold = [(i,) * 1500 for i in range(20)]
    assert same_official(gold, gold[::-1], False)
    assert not same_official(gold, [*gold[1:], (99,) * 1500], False)


@pytest.mark.parametrize("n_columns", [300, 1500])
def test_many_columns_alike_in_their_values_are_paired_without_recursion(n_columns):
    rng = random.Random(5)
    columns = [tuple(rng.sample([0] * 20 + [1] * 20, 40)) for _ in range(n_columns)]
    gold = list(zip(*columns, strict=True))
    predicted = rng.sample(list(zip(*rng.sample(columns, n_columns), strict=True)), 40)
    assert same_official(gold, predicted, False)
    a, b = (next(i for i in range(40) if predicted[i][0] == value) for value in (0, 1))
    predicted[a], predicted[b] = (1, *predicted[a][1:]), (0, *predicted[b][1:])
    assert not same_official(gold, predicted, False)


def test_attack_hash_collisions_of_rows_stay_linear():
    """Rows chosen so that their hashes collide (pairs of integers, tuple hashes are not seeded) cost no more than others."""
    from s0.tasks.sqlmatch import _numbered

    rows = [(i, -i) for i in range(-500, 500)]
    assert _numbered(rows)[0] == [(2 * i, 2 * i + 1) for i in range(500)] + _numbered(rows)[0][500:]
    assert all(0 <= n < 1001 for row in _numbered(rows)[0] for n in row)


@pytest.mark.parametrize(
    ("sql", "stripped"),
    [
        ("SELECT DISTINCT a FROM t", "SELECT  a FROM t"),
        ("select count(distinct a) from t", "select count( a) from t"),
        ("SELECT 'DISTINCT' FROM t", "SELECT 'DISTINCT' FROM t"),
        ('SELECT "distinct" FROM t', 'SELECT "distinct" FROM t'),
        ("SELECT [distinct], `distinct` FROM t", "SELECT [distinct], `distinct` FROM t"),
        ("SELECT a -- distinct\nFROM t", "SELECT a -- distinct\nFROM t"),
        ("SELECT a /* distinct */ FROM t", "SELECT a /* distinct */ FROM t"),
        ("SELECT distinct_id FROM t", "SELECT distinct_id FROM t"),
        ("SELECT 'it''s' , DISTINCT", "SELECT 'it''s' , "),
        ("SELECT 'open DISTINCT", "SELECT 'open DISTINCT"),
    ],
)
def test_strip_distinct(sql, stripped):
    assert strip_distinct(sql) == stripped


@pytest.mark.parametrize(
    ("sql", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("select a from t order\n  by a", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY b LIMIT 1)", True),
        ("SELECT a FROM t WHERE b = 'order by'", False),
        ("SELECT a FROM t -- order by", False),
        ("SELECT order_by FROM t", False),
        ("SELECT a FROM t GROUP BY a", False),
    ],
)
def test_has_order_by(sql, ordered):
    assert has_order_by(sql) is ordered


def test_prepare_does_what_the_official_script_does():
    assert prepare("SELECT DISTINCT a FROM t WHERE b > = 1 AND c ! = 2", keep_distinct=True) == (
        "SELECT DISTINCT a FROM t WHERE b >= 1 AND c != 2"
    )
    assert "2020" in prepare("SELECT YEAR(CURDATE())", keep_distinct=False)


def test_tokens_lose_nothing():
    rng = random.Random(1)
    for _ in range(500):
        sql = "".join(rng.choice("a1 '\"`[]-/*\n;éselect") for _ in range(rng.randint(0, 40)))
        assert "".join(text for _, text in tokens(sql)) == sql
