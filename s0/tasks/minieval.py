"""minieval: 164 generated programming problems in HumanEval's format, for the embedded tiny models.

    python run.py task=minieval model=tiny_gdn

Graded exactly as HumanEval. The user turn is the problem's prompt alone: the published instruction would cost the tiny
models as many tokens as the problem itself, and they never saw it in pretraining (docs/tiny.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from s0.tasks.humaneval import COLUMNS, OPTIONAL, HumanEval
from s0.tiny import benchmark


class MiniEval(HumanEval):
    """See HumanEval; problems 0-79 are for training, 80-163 held out. `path` may name a file in the same format."""

    name = "minieval"
    instruction: ClassVar[str] = ""

    def references(self) -> dict[str, str]:
        """None for the shipped problems: the tests of this package judge them."""
        return super().references() if self.path or self.hub_id else {}

    def read_rows(self) -> list[Mapping[str, Any]]:
        if self.path or self.hub_id:
            return super().read_rows()
        self.source = f"shipped file s0/tiny/{benchmark.PATH.name}"
        return [{column: row[column] for column in (*COLUMNS, *OPTIONAL)} for row in benchmark.load()]
