"""Nothing of the benchmark is in what the tiny models were trained on.

The check parses the texts instead of asking the grammar, so that it does not share the generator's idea of equality.
"""

from __future__ import annotations

import ast
import itertools
import json

import pytest

from s0.tiny import benchmark, card, corpus, models
from s0.tiny.grammar import NAMES, OPENERS
from s0.tiny.operations import DOMAINS


class _Rename(ast.NodeTransformer):
    """Every bound name -> its order of first appearance; builtins (free names) stay."""

    def __init__(self, bound: set[str]) -> None:
        self.bound, self.order = bound, {}

    def visit_Name(self, node):
        if node.id in self.bound:
            node.id = f"v{self.order.setdefault(node.id, len(self.order))}"
        return node

    def visit_arg(self, node):
        node.arg = f"v{self.order.setdefault(node.arg, len(self.order))}"
        return node


def program(source: str) -> str:
    """The function's arguments and body without names and docstring, as an AST dump."""
    function = ast.parse(source).body[0]
    bound = {a.arg for a in ast.walk(function) if isinstance(a, ast.arg)}
    bound |= {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    if isinstance(function.body[0], ast.Expr) and isinstance(function.body[0].value, ast.Constant):
        function.body = function.body[1:]
    function.name = "f"
    return ast.dump(_Rename(bound).visit(function))


def test_program_sees_through_renaming():
    a = "def f(xs):\n    '''a'''\n    return [x for x in xs if x > 3]"
    b = "def g(nums):\n    return [n for n in nums if n > 3]"
    assert program(a) == program(b)
    assert program(a) != program(b.replace("3", "4"))
    assert program("def f(a, b):\n return range(a, b)") != program("def f(a, b):\n return range(b, a)")


def request_text(prompt: str) -> str:
    """What is asked, without function name, argument names and opener."""
    header, docstring = prompt.split("\n", 1)
    arguments = header[header.index("(") + 1 : header.index(")")].split(", ")
    text = docstring.strip().strip('"')
    text = next(text.removeprefix(opener) for opener in OPENERS if text.startswith(opener))
    words = text.replace(".", " .").replace(",", " ,").split()
    known = {n for d in DOMAINS.values() for names in d.arguments for n in names}
    # a word such as "words" may be both an argument and a noun: only the word that follows in/from/before/through is a name
    named = [
        i
        for i, w in enumerate(words)
        if w in arguments and words[i - 1] in ("in", "from", "before", "through", "numbers")
    ]
    assert named, prompt
    assert all(words[i] in known for i in named), prompt
    return " ".join(f"_{arguments.index(w)}" if i in named else w for i, w in enumerate(words))


def trained_pairs():
    """The largest corpus any shipped model has seen (they share one seed: each sees a prefix)."""
    cards = [json.loads((models.embedded_model(n) / "card.json").read_text()) for n in models.NAMES]
    seeds = {c["recipe"]["seed"] for c in cards}
    return itertools.chain.from_iterable(
        corpus.pairs(seed, max(c["corpus"]["pairs"] for c in cards if c["recipe"]["seed"] == seed)) for seed in seeds
    )


@pytest.mark.slow
def test_no_benchmark_prompt_or_program_in_the_corpus():
    rows = benchmark.load()
    prompts = {r["prompt"] for r in rows}
    requests = {request_text(r["prompt"]) for r in rows}
    programs = {program(r["prompt"] + r["canonical_solution"]) for r in rows}
    assert len(prompts) == len(requests) == len(programs) == 164
    seen: dict[str, str] = {}
    bodies = 0
    for prompt, completion in trained_pairs():
        assert prompt not in prompts
        assert request_text(prompt) not in requests
        if completion.startswith("The function") or completion == "    pass":
            continue
        code = completion.removeprefix("```python\n").removesuffix("\n```")
        source = code if code.startswith("def ") else prompt + code
        key = source[source.index("(") :].split('"""')
        key = key[0] + key[-1]
        if key not in seen:
            seen[key] = program(source)
            assert seen[key] not in programs, source
        bodies += 1
    assert bodies > 10_000


def test_corpus_is_deterministic_and_each_seed_differs():
    assert corpus.corpus_sha256(1, 500) == corpus.corpus_sha256(1, 500)
    assert corpus.corpus_sha256(1, 500) != corpus.corpus_sha256(2, 500)


def test_a_benchmark_program_smuggled_in_as_a_wrong_answer_is_left_out():
    """Without the exclusion the stream does contain benchmark programs, also as habits of other prompts."""
    banned = corpus.forbidden()
    assert len(banned) == 164
    from s0.tiny.grammar import Program

    for request in benchmark.requests():
        op, k = request.program.stages[1]
        if op.name == "above" and k in "23456789":
            at_least = next(f for f in DOMAINS[request.program.domain].filters if f.name == "atleast")
            stages = request.program.stages
            neighbour = Program(request.program.domain, (stages[0], (at_least, k), *stages[2:]))
            assert neighbour.canonical() != request.program.canonical()
            assert neighbour.canonical((False, True, False, False)) in banned
            return
    pytest.fail("no benchmark problem filters by 'above'")


def test_names_never_collide_with_the_fenced_name():
    from s0.tiny.grammar import OTHER_NAME

    assert OTHER_NAME not in NAMES


@pytest.mark.parametrize("name", models.NAMES)
def test_shipped_weights_match_their_card(name):
    assert "match the card" in card.check(name, models.embedded_model(name))
