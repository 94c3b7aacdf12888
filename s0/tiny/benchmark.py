"""minieval: 164 executed programming problems in HumanEval's form, made by the grammar.

`python -m s0.tiny.benchmark` rewrites `minieval.jsonl` (byte for byte the same; a test checks it). Fields are those of
HumanEval (Chen et al. 2021): task_id, prompt, entry_point, canonical_solution, test. Problems 0-79 are for training, 80-163
are held out, as in the paper's split of HumanEval.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from s0.storage.files import read_jsonl, write_text
from s0.tiny.grammar import NAMES, OPENERS, Program, Request, sample_program
from s0.tiny.operations import DOMAINS

N_PROBLEMS, N_TRAIN = 164, 80
SEED = 2604
MIN_TESTS, POOL = 12, 160
PATH = Path(__file__).with_name("minieval.jsonl")


def _random_input(rng: random.Random, domain: str) -> tuple[Any, ...]:
    if domain == "list":
        return ([rng.randint(-6, 12) for _ in range(rng.randint(0, 9))],)
    if domain == "range":
        start = rng.randint(-4, 9)
        return (start, start + rng.randint(0, 10))
    if domain == "text":
        return ("".join(rng.choice("aabcdeefghiijklmnoopstuAEKMZ27") for _ in range(rng.randint(0, 10))),)
    words = [
        "".join(rng.choice("aabcdeehilmnoorsttu") for _ in range(rng.randint(1, 7))) for _ in range(rng.randint(0, 7))
    ]
    return (words,)


def function(program: Program, habits: tuple[bool, ...] = (False,) * 4) -> Callable[..., Any]:
    """The program as a Python callable (the grammar's own expressions only)."""
    arguments = DOMAINS[program.domain].arguments[0]
    return eval(f"lambda {', '.join(arguments)}: {program.expression(arguments, habits)}", {})


def mutants(program: Program) -> list[Callable[..., Any]]:
    """Every program that differs in one stage (operation or parameter), and every single habit."""
    domain = DOMAINS[program.domain]
    found = []
    for i, options in enumerate((domain.sources, domain.filters, domain.maps, domain.reduces)):
        for op in options:
            for k in op.params or ("",):
                if (op, k) != program.stages[i]:
                    stages = (*program.stages[:i], (op, k), *program.stages[i + 1 :])
                    found.append(function(Program(program.domain, stages)))
        if program.stages[i][0].habit:
            found.append(function(program, tuple(j == i for j in range(4))))
    return found


def differs(got: Any, want: Any) -> bool:
    return type(got) is not type(want) or got != want


def select_inputs(rng: random.Random, program: Program) -> list[tuple[Any, ...]]:
    """At least MIN_TESTS inputs that kill every mutant which any input of a random pool of POOL can kill."""
    pool = [_random_input(rng, program.domain) for _ in range(POOL)]
    want = [function(program)(*args) for args in pool]
    kills = []
    for mutant in mutants(program):
        killing = {i for i, args in enumerate(pool) if differs(mutant(*args), want[i])}
        if killing:
            kills.append(killing)
    chosen: list[int] = []
    while kills:
        best = max(range(POOL), key=lambda i: (sum(i in k for k in kills), -i))
        chosen.append(best)
        kills = [k for k in kills if best not in k]
    chosen += [i for i in range(POOL) if i not in chosen][: max(0, MIN_TESTS - len(chosen))]
    return [pool[i] for i in chosen]


def test_source(program: Program, inputs: list[tuple[Any, ...]]) -> str:
    """A HumanEval-style `check(candidate)` that compares type and value."""
    reference = function(program)
    lines = [
        "def check(candidate):",
        "    def same(got, want):",
        "        return type(got) is type(want) and got == want",
        "",
    ]
    for args in inputs:
        lines.append(f"    assert same(candidate({', '.join(map(repr, args))}), {reference(*args)!r})")
    return "\n".join(lines) + "\n"


def _deck(rng: random.Random, n: int) -> list[str]:
    """`n` openers in their shares (largest remainders), shuffled: both parts are as hard for the base model."""
    quota = {name: share * n for name, (share, _) in OPENERS.items()}
    deck = [name for name, q in quota.items() for _ in range(int(q))]
    by_remainder = sorted(quota, key=lambda name: (int(quota[name]) - quota[name], name))
    deck += by_remainder[: n - len(deck)]
    rng.shuffle(deck)
    return deck


def requests() -> list[Request]:
    """The 164 requests, in benchmark order, no two of them the same program."""
    rng = random.Random(SEED)
    openers = _deck(rng, N_TRAIN) + _deck(rng, N_PROBLEMS - N_TRAIN)
    found: list[Request] = []
    seen: set[str] = set()
    for i, opener in enumerate(openers):
        domain = tuple(DOMAINS)[i % len(DOMAINS)]
        while True:
            program = sample_program(rng, domain)
            _, keep, change, reduce = (op.name for op, _ in program.stages)
            # a count is blind to the map, and an untouched list is no program: both would pass for the wrong reason
            idle = (reduce == "count" and change != "same") or (keep == "all" and change == "same")
            if program.canonical() not in seen and not idle:
                break
        seen.add(program.canonical())
        found.append(Request(program, rng.choice(NAMES), rng.choice(DOMAINS[domain].arguments), opener))
    return found


def generate() -> list[dict[str, str]]:
    """The 164 problems with HumanEval's five fields."""
    rows = []
    for i, request in enumerate(requests()):
        inputs = select_inputs(random.Random(f"{SEED}/{i}"), request.program)
        rows.append(
            {
                "task_id": f"minieval/{i}",
                "prompt": request.prompt,
                "entry_point": request.name,
                "canonical_solution": request.body() + "\n",
                "test": test_source(request.program, inputs),
            }
        )
    return rows


def dumps(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def load() -> list[dict[str, str]]:
    """The shipped problems."""
    rows: list[dict[str, str]] = read_jsonl(PATH)
    return rows


if __name__ == "__main__":
    write_text(PATH, dumps(generate()))
