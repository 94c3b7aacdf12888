"""Programs as answers: finding them in what a model wrote and running their tests in the sandbox."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from s0.data import Verdict
from s0.tasks.layout import body_layout
from s0.tasks.program_tests import ProgramTest
from s0.tasks.text import strip_fences, strip_thinking

if TYPE_CHECKING:
    from s0.sandbox import Sandbox


def program_answer(test: ProgramTest, text: str) -> str:
    """Code to append to `test.header`: the code block that defines the entry point, else the first, else the text; a bare
    function body gets its layout repaired (`s0.tasks.pycode`)."""
    code = strip_fences(
        strip_thinking(text), prefer=rf"(?m)^[ \t\f]*(?:async[ \t]+)?def[ \t]+{re.escape(test.entry_point)}\b"
    )
    if test.header:
        return body_layout(test.header, code, test.entry_point)
    # The few-shot form of MBPP's paper marks the end of a program.
    return code.partition("[DONE]")[0].replace("\r\n", "\n").strip("\n") + "\n"


def grade_programs(
    sandbox: Sandbox, tests: Sequence[ProgramTest], programs: Sequence[str], timeout_s: float
) -> list[Verdict]:
    """Verdicts in order. Raises SandboxError."""
    # start-up: processes and their self-test, for those who only read the data
    from s0.sandbox import PythonCheck

    return sandbox.settle(
        PythonCheck(test.header, program, test.test, test.entry_point, timeout_s)
        for test, program in zip(tests, programs, strict=True)
    )
