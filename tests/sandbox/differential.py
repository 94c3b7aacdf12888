"""Own programs, honest and wrong, judged here and run in a plain interpreter: do the two agree?

A case is "### name", the prompt between "+++" and "..." (optional), the program, "---", and the test's assertions on `f`.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from s0.data import Verdict
from s0.sandbox import PythonCheck, Sandbox

HERE = Path(__file__).parent
LIMIT_S = 20.0


class Case(NamedTuple):
    name: str
    check: PythonCheck


def read(path: Path) -> list[Case]:
    cases = []
    for block in path.read_text(encoding="utf-8").split("### ")[1:]:
        name, _, rest = block.partition("\n")
        prompt = ""
        if rest.startswith("+++\n"):
            prompt, _, rest = rest[4:].partition("...\n")
        program, _, body = rest.partition("---\n")
        test = "def check(candidate):\n" + textwrap.indent("f = candidate\n" + body, "    ")
        if "global" in body or "\nclass " in f"\n{body}" or "@f" in body:
            test = (
                f"def check(candidate): pass\n{body}"  # classes belong to the module, and the name is the entry point
            )
        cases.append(Case(name, PythonCheck(prompt, program, test, "f", LIMIT_S)))
    return cases


def plain(case: Case) -> tuple[bool, str]:
    """Whether a plain interpreter gets through program and test, and its last words."""
    c = case.check
    program = f"{c.prompt}{c.completion}\n{c.test}\ncheck({c.entry_point})\n"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=60)
    return done.returncode == 0, (done.stderr.strip().splitlines() or [""])[-1][:150]


class Row(NamedTuple):
    name: str
    honest: bool
    plain: bool
    words: str
    verdict: Verdict

    @property
    def outcome(self) -> str:
        """ "same", "unjudged", or how the judge is wrong."""
        if self.verdict.kind == "unjudged":
            return "unjudged"
        if self.verdict.passed == self.plain:
            return "same"
        return "passed falsely" if self.verdict.passed else "failed falsely"


def compare(sandbox: Sandbox) -> list[Row]:
    """Every case, judged and run."""
    cases = [(c, kind == "honest") for kind in ("honest", "wrong") for c in read(HERE / f"differential_{kind}.txt")]
    verdicts = sandbox.settle([c.check for c, _ in cases])
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(plain, [c for c, _ in cases]))
    return [Row(c.name, h, p, w, v) for (c, h), (p, w), v in zip(cases, runs, verdicts, strict=True)]
