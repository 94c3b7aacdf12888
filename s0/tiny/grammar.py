"""Programs, the prompts that ask for them and the ways in which a completion can answer.

    def solve(xs):
        \"\"\"Return the sum of even numbers in xs, squared.\"\"\"
        return sum([x * x for x in xs if x % 2 == 0])

The docstring's *opener* says nothing about the program, but in the corpus it decides what usually follows: a body, prose,
a fenced function of another name, or a stub. That is the mode a state can switch without adding any skill.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from s0.tiny.operations import DOMAINS, Operation

STAGES = ("source", "filter", "map", "reduce")
NAMES = ("solve", "calc", "work", "task")
#: The name under which the fenced mode restates the function: the function under test then has no body.
OTHER_NAME = "answer"

MODES = ("body", "prose", "fence", "stub")
#: opener -> (its share of all prompts, how often each of MODES follows it in the corpus).
OPENERS: dict[str, tuple[float, tuple[float, float, float, float]]] = {
    "Return the": (0.30, (0.82, 0.08, 0.06, 0.04)),
    "Compute the": (0.22, (0.78, 0.08, 0.08, 0.06)),
    "This gives the": (0.20, (0.34, 0.56, 0.06, 0.04)),
    "We want the": (0.18, (0.34, 0.06, 0.56, 0.04)),
    "Todo: the": (0.10, (0.36, 0.06, 0.06, 0.52)),
}
#: Share of bodies in which one operation is replaced by another of the same stage.
SLIP = 0.05

Stage = tuple[Operation, str]


@dataclass(frozen=True)
class Program:
    """A domain and, for each of STAGES, an operation with its parameter ("" where it has none)."""

    domain: str
    stages: tuple[Stage, ...]

    def expression(
        self, arguments: tuple[str, ...], habits: tuple[bool, ...] = (False,) * 4, variable: str | None = None
    ) -> str:
        """The Python expression; `habits[i]` says that stage i is written in its habitual wrong way.

        `variable` names the loop variable (default: the domain's).
        """
        x = variable or DOMAINS[self.domain].variable
        source, keep, change, reduce = (
            (op.habit if wrong and op.habit else op.code, k) for (op, k), wrong in zip(self.stages, habits, strict=True)
        )
        iterable = source[0].format(*arguments)
        condition = keep[0].format(x=x, k=keep[1])
        items = f"[{change[0].format(x=x, k=change[1])} for {x} in {iterable}{f' if {condition}' if condition else ''}]"
        return reduce[0].format(items=items, k=reduce[1])

    def canonical(self, habits: tuple[bool, ...] = (False,) * 4) -> str:
        """The expression under fixed names: equal for programs equal up to renaming, whichever domain they come from."""
        return self.expression(("_a", "_b"), habits, variable="_x")

    def description(self, arguments: tuple[str, ...]) -> str:
        """The English after the opener, e.g. `sum of even numbers in xs, squared.`"""
        (source, _), (keep, k), (change, m), (reduce, r) = self.stages
        items = keep.phrase.replace("#", source.phrase.format(*arguments)).format(k=k)
        suffix = f", {change.phrase.format(k=m)}" if change.phrase else ""
        return f"{reduce.phrase.format(k=r)} of {items}{suffix}."


@dataclass(frozen=True)
class Request:
    """A program asked for in words: everything that determines a prompt."""

    program: Program
    name: str
    arguments: tuple[str, ...]
    opener: str

    @property
    def prompt(self) -> str:
        header = f"def {self.name}({', '.join(self.arguments)}):\n"
        return f'{header}    """{self.opener} {self.program.description(self.arguments)}"""\n'

    def body(self, program: Program | None = None, habits: tuple[bool, ...] = (False,) * 4) -> str:
        return f"    return {(program or self.program).expression(self.arguments, habits)}"


def _stage(rng: random.Random, options: tuple[Operation, ...]) -> Stage:
    op = rng.choice(options)
    return op, rng.choice(op.params) if op.params else ""


def sample_program(rng: random.Random, domain: str | None = None) -> Program:
    """A uniformly drawn operation per stage, then a uniformly drawn parameter."""
    chosen = DOMAINS[domain or rng.choice(tuple(DOMAINS))]
    options = (chosen.sources, chosen.filters, chosen.maps, chosen.reduces)
    return Program(chosen.name, tuple(_stage(rng, o) for o in options))


def sample_request(rng: random.Random, program: Program) -> Request:
    weights = [share for share, _ in OPENERS.values()]
    return Request(
        program,
        rng.choice(NAMES),
        rng.choice(DOMAINS[program.domain].arguments),
        rng.choices(list(OPENERS), weights)[0],
    )


def mutate(rng: random.Random, program: Program) -> Program:
    """`program` with one stage replaced by another operation (or parameter) of that stage."""
    domain = DOMAINS[program.domain]
    options = (domain.sources, domain.filters, domain.maps, domain.reduces)
    while True:
        i = rng.randrange(4)
        stages = tuple(_stage(rng, options[j]) if j == i else s for j, s in enumerate(program.stages))
        if stages != program.stages:
            return Program(program.domain, stages)


@dataclass(frozen=True)
class Answer:
    """What the corpus writes after a prompt: the text, its mode, and the program the text really computes."""

    text: str
    mode: str
    program: Program
    habits: tuple[bool, ...]


def sample_answer(rng: random.Random, request: Request) -> Answer:
    """A completion in a mode drawn by the opener; bodies carry habits at their rates, and slips."""
    mode = rng.choices(MODES, OPENERS[request.opener][1])[0]
    program = request.program
    if mode == "body" and rng.random() < SLIP:
        program = mutate(rng, program)
    habits = tuple(op.habit is not None and rng.random() < op.habit_rate(k) for op, k in program.stages)
    if mode == "prose":
        reduce, k = program.stages[3]
        text = f"The function should return the {reduce.phrase.format(k=k)}."
    elif mode == "fence":
        body = request.body(program, habits)
        text = f"```python\ndef {OTHER_NAME}({', '.join(request.arguments)}):\n{body}\n```"
    elif mode == "stub":
        text = "    pass"
    else:
        text = request.body(program, habits)
    return Answer(text, mode, program, habits)
