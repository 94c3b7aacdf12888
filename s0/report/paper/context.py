"""What the builders may ask: records of an experiment, rows of a model and method, analyses, published figures."""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from s0.errors import DataError
from s0.report.aggregate import Row, aggregate, load_records, method_label
from s0.report.formats import Table
from s0.storage.records import Record
from s0.storage.results import AnalysisResult, find_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOT_RUN = "not run"
MODEL_NAMES = {
    "qwen35_08b": "Qwen3.5-0.8B",
    "qwen35_2b": "Qwen3.5-2B",
    "qwen35_4b": "Qwen3.5-4B",
    "qwen35_9b": "Qwen3.5-9B",
    "falcon_h1_7b": "Falcon-H1-7B",
    "qwen25_3b": "Qwen2.5-3B",
}
METHOD_NAMES = {"s0": "S0", "state_offset": "state-offset", "prefix": "prefix tuning", "none": "baseline"}
TASK_NAMES = {
    "humaneval": "HumanEval",
    "minieval": "minieval",
    "math500": "MATH-500",
    "gsm8k": "GSM8K",
    "spider": "Spider",
}


@dataclass
class Built:
    """What one item produces: tables and figures by file stem, LaTeX macros by name (letters only)."""

    tables: dict[str, Table] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    macros: dict[str, str] = field(default_factory=dict)


class Context:
    """Reads `records_dir`/<experiment>/ and `published_dir`/*.csv, each once."""

    def __init__(self, records_dir: Path, published_dir: Path, configs_dir: Path | None = None) -> None:
        self.records_dir, self.published_dir = Path(records_dir), Path(published_dir)
        self.configs_dir = Path(configs_dir) if configs_dir else None
        # holds every record it has handed out, so that identities stay unique
        self._records: dict[str, list[Record]] = {}
        self._rows: dict[tuple[int, ...], list[Row]] = {}

    def records(self, experiment: str) -> list[Record]:
        """Records of an experiment; none where the folder is missing."""
        if experiment not in self._records:
            folder = self.records_dir / experiment
            self._records[experiment] = load_records([folder]) if folder.is_dir() else []
        return self._records[experiment]

    def of(
        self,
        experiment: str,
        model: str,
        *,
        label: str | None = None,
        method: str | None = None,
        task: str | None = None,
    ) -> list[Record]:
        """Records of one model in an experiment, narrowed where an argument is given."""
        return [
            r
            for r in self.records(experiment)
            if r.model == model
            and (label is None or method_label(r) == label)
            and (method is None or r.method == method)
            and (task is None or r.task == task)
        ]

    def rows(self, experiment: str, model: str, label: str, task: str | None = None) -> list[Row]:
        """Rows of one model and method label, one per cell (different settings stay apart)."""
        return self.aggregate(self.of(experiment, model, label=label, task=task))

    def aggregate(self, records: Sequence[Record]) -> list[Row]:
        """`aggregate`, once per set of records: many tables show the same cells."""
        key = tuple(id(r) for r in records)
        if key not in self._rows:
            self._rows[key] = aggregate(records)
        return self._rows[key]

    def analyses(self, experiment: str, name: str) -> list[AnalysisResult]:
        return find_results([self.records_dir / experiment], name)

    @functools.cache  # noqa: B019 - a context lives as long as the build
    def published(self, name: str) -> tuple[dict[str, str], ...]:
        """Lines of `<name>.csv`. Raises DataError where the file is missing."""
        path = self.published_dir / f"{name}.csv"
        try:
            with open(path, newline="", encoding="utf-8") as f:
                return tuple(csv.DictReader(f))
        except OSError as error:
            raise DataError(f"{path}: published figures cannot be read ({error.strerror}); restore the file") from error

    def published_row(self, name: str, **where: str) -> dict[str, str] | None:
        rows = (r for r in self.published(name) if all(r[k] == v for k, v in where.items()))
        return next(rows, None)

    def published_values(self, name: str, column: str, **where: str) -> list[float]:
        """Non-empty numbers of a column, in file order."""
        rows = (r for r in self.published(name) if all(r[k] == v for k, v in where.items()))
        return [float(r[column]) for r in rows if r[column]]

    def mechanism(self, quantity: str) -> float:
        row = self.published_row("mechanism", quantity=quantity)
        if row is None:
            raise DataError(f"mechanism.csv: no quantity {quantity!r}; restore the file")
        return float(row["value"])


def model_name(model: str) -> str:
    return MODEL_NAMES.get(model, model)


def task_name(task: str) -> str:
    return TASK_NAMES.get(task, task)


def method_name(label: str) -> str:
    """`lora_r24 [method.lr=0.001]` -> `LoRA r24 [lr=0.001]`."""
    base, _, settings = label.partition(" ")
    name = METHOD_NAMES.get(base, base)
    if base == "lora_match":
        name = "LoRA, S0's budget"
    elif base.startswith("lora_"):
        name = f"LoRA {base[5:]}"
    elif base.startswith("s0_"):
        name = f"S0 ({base[3:].replace('_', ', ')})"
    return f"{name} {settings.replace('method.', '')}" if settings else name
