"""The vocabulary of the tiny benchmark: what a program may read, filter, map and reduce.

A program is `reduce([map(x) for x in source if filter(x)])` over one of four domains. Every operation is one row below:
its English (what the docstring says), its Python (what a correct body says) and, for some, a *habit*: a plausible wrong
Python that the pretraining corpus writes more often than the right one (off by one, a forgotten reversal, ...).
"""

from __future__ import annotations

from dataclasses import dataclass

#: How often the corpus writes the wrong code for an operation that has a habit: for its first and its last parameter.
MILD, STRONG = 0.48, 0.76


@dataclass(frozen=True)
class Operation:
    """One stage of a program.

    `phrase` and `code` are templates: `{k}` is the parameter, `{x}` the loop variable, `{items}` the list that a
    reduction receives, `#` the noun phrase of the source. `params` are the parameter's literals (empty: none).
    `habit` is the wrong code that the corpus writes with probability `habit_rate(k)`.
    """

    name: str
    phrase: str
    code: str
    params: tuple[str, ...] = ()
    habit: str | None = None

    def habit_rate(self, k: str) -> float:
        """Rises linearly from MILD for the first parameter to STRONG for the last; 0 without a habit.

        A spectrum, so that some bugs sit on the fence and others are beyond what a state can turn.
        """
        if self.habit is None:
            return 0.0
        return MILD + (STRONG - MILD) * self.params.index(k) / (len(self.params) - 1)


@dataclass(frozen=True)
class Domain:
    """One kind of input. `sources` are operations too (their `code` is the iterable of the comprehension)."""

    name: str
    variable: str
    arguments: tuple[tuple[str, ...], ...]
    sources: tuple[Operation, ...]
    filters: tuple[Operation, ...]
    maps: tuple[Operation, ...]
    reduces: tuple[Operation, ...]


DIGITS = tuple("23456789")
SMALL = tuple("2345")
LETTERS = tuple(f"'{c}'" for c in "aeilnort")
MIDDLE = tuple(f"'{c}'" for c in "eghikmno")

COMMON_REDUCES = (
    Operation("list", "list", "{items}"),
    Operation("count", "count", "len({items})"),
    Operation("distinct", "distinct count", "len(set({items}))"),
    Operation("sorted", "sorted list", "sorted({items})"),
    Operation("descending", "descending list", "sorted({items})[::-1]"),
    Operation("reversed", "reversed list", "{items}[::-1]"),
    Operation("first", "first {k}", "{items}[:{k}]", SMALL),
    Operation("last", "last {k}", "{items}[-{k}:]", SMALL, habit="{items}[{k}:]"),
)
NUMBER_FILTERS = (
    Operation("all", "#", ""),
    Operation("even", "even #", "{x} % 2 == 0"),
    Operation("odd", "odd #", "{x} % 2 == 1"),
    Operation("positive", "positive #", "{x} > 0"),
    Operation("negative", "negative #", "{x} < 0"),
    Operation("above", "# above {k}", "{x} > {k}", DIGITS),
    Operation("below", "# below {k}", "{x} < {k}", DIGITS),
    Operation("atleast", "# at least {k}", "{x} >= {k}", DIGITS, habit="{x} > {k}"),
    Operation("atmost", "# at most {k}", "{x} <= {k}", DIGITS, habit="{x} < {k}"),
    Operation("divisible", "# divisible by {k}", "{x} % {k} == 0", DIGITS[1:]),
    Operation("without", "# other than {k}", "{x} != {k}", DIGITS),
)
NUMBER_MAPS = (
    Operation("same", "", "{x}"),
    Operation("squared", "squared", "{x} * {x}"),
    Operation("negated", "negated", "-{x}"),
    Operation("halved", "halved", "{x} // 2"),
    Operation("absolute", "absolute", "abs({x})"),
    Operation("plus", "plus {k}", "{x} + {k}", DIGITS),
    Operation("minus", "minus {k}", "{x} - {k}", DIGITS),
    Operation("times", "times {k}", "{x} * {k}", DIGITS),
    Operation("modulo", "modulo {k}", "{x} % {k}", DIGITS[1:]),
)
NUMBER_REDUCES = (
    Operation("sum", "sum", "sum({items})"),
    Operation("largest", "largest", "max({items}, default=0)"),
    Operation("smallest", "smallest", "min({items}, default=0)"),
    *COMMON_REDUCES,
)
TEXT_REDUCES = (
    Operation("joined", "text", "''.join({items})"),
    Operation("dashed", "dashed text", "'-'.join({items})"),
    *COMMON_REDUCES,
)

DOMAINS: dict[str, Domain] = {
    d.name: d
    for d in (
        Domain(
            "list",
            "x",
            (("xs",), ("nums",)),
            (Operation("given", "numbers in {0}", "{0}"),),
            NUMBER_FILTERS,
            NUMBER_MAPS,
            NUMBER_REDUCES,
        ),
        Domain(
            "range",
            "n",
            (("a", "b"), ("lo", "hi")),
            (
                Operation("before", "numbers from {0} before {1}", "range({0}, {1})"),
                Operation("through", "numbers {0} through {1}", "range({0}, {1} + 1)"),
            ),
            tuple(f for f in NUMBER_FILTERS if f.name not in ("positive", "negative")),
            tuple(m for m in NUMBER_MAPS if m.name != "absolute"),
            tuple(r for r in NUMBER_REDUCES if r.name not in ("sorted", "distinct")),
        ),
        Domain(
            "text",
            "c",
            (("s",), ("text",)),
            (Operation("given", "characters in {0}", "{0}"),),
            (
                Operation("all", "#", ""),
                Operation("vowels", "vowel #", "{x} in 'aeiou'"),
                Operation("upper", "upper #", "{x}.isupper()"),
                Operation("lower", "lower #", "{x}.islower()"),
                Operation("digits", "digit #", "{x}.isdigit()"),
                Operation("letters", "letter #", "{x}.isalpha()"),
                Operation("without", "# other than {k}", "{x} != {k}", LETTERS),
                Operation("above", "# above {k}", "{x} > {k}", MIDDLE),
                Operation("atleast", "# at least {k}", "{x} >= {k}", MIDDLE, habit="{x} > {k}"),
            ),
            (
                Operation("same", "", "{x}"),
                Operation("uppercased", "uppercased", "{x}.upper()"),
                Operation("swapped", "swapped", "{x}.swapcase()"),
                Operation("doubled", "doubled", "{x} * 2"),
                Operation("plus", "plus {k}", "{x} + {k}", LETTERS),
            ),
            TEXT_REDUCES,
        ),
        Domain(
            "words",
            "w",
            (("ws",), ("words",)),
            (Operation("given", "words in {0}", "{0}"),),
            (
                Operation("all", "#", ""),
                Operation("longer", "# longer than {k}", "len({x}) > {k}", SMALL),
                Operation("shorter", "# shorter than {k}", "len({x}) < {k}", SMALL),
                Operation("atleast", "# at least {k} long", "len({x}) >= {k}", SMALL, "len({x}) > {k}"),
                Operation("starting", "# starting {k}", "{x}.startswith({k})", LETTERS),
                Operation("ending", "# ending {k}", "{x}.endswith({k})", LETTERS),
                Operation("with", "# with {k}", "{k} in {x}", LETTERS),
                Operation("without", "# without {k}", "{k} not in {x}", LETTERS),
            ),
            (
                Operation("same", "", "{x}"),
                Operation("uppercased", "uppercased", "{x}.upper()"),
                Operation("titled", "titled", "{x}.title()"),
                Operation("mirrored", "mirrored", "{x}[::-1]"),
                Operation("doubled", "doubled", "{x} * 2"),
                Operation("plus", "plus {k}", "{x} + {k}", LETTERS),
            ),
            (Operation("longest", "longest", "max({items}, key=len, default='')"), *TEXT_REDUCES),
        ),
    )
}
