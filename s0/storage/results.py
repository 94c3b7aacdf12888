"""Analysis results on disk: `<analysis>.<model>.<task>.seed<N>.analysis.json` beside the records they belong to.

A record holds what an evaluation measured; persistence curves and probe scores are measured inside the model and have a
file of their own. `values` is plain JSON whose keys the analysis documents.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s0.errors import StoreError
from s0.storage.files import write_json

SCHEMA_VERSION = 1
SUFFIX = ".analysis.json"


@dataclass(frozen=True)
class AnalysisResult:
    """One analysis of one trained cell. `record_key` names the record whose state was analysed ("" for the base model)."""

    analysis: str
    experiment: str
    model: str
    task: str
    seed: int
    alpha: float | None
    values: dict[str, Any]
    record_key: str = ""
    config_hash: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def file_name(self) -> str:
        return f"{self.analysis}.{self.model}.{self.task}.seed{self.seed}{SUFFIX}"


def write_result(folder: Path, result: AnalysisResult) -> Path:
    """Write atomically; the path is a function of what was analysed, so a repeated analysis replaces its result."""
    path = Path(folder) / result.file_name
    write_json(path, dataclasses.asdict(result))
    return path


def read_result(path: Path) -> AnalysisResult:
    """Read one result. Raises StoreError naming the file when it is torn, foreign or of another schema version."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path}: not a readable analysis ({error}); move it away and run the analysis again"
        ) from error
    known = {f.name for f in dataclasses.fields(AnalysisResult)}
    if not isinstance(data, dict) or set(data) != known or data["schema_version"] != SCHEMA_VERSION:
        raise StoreError(f"{path}: not a whole analysis of schema {SCHEMA_VERSION}; run the analysis again")
    return AnalysisResult(**data)


def find_results(folders: Sequence[Path], analysis: str | None = None) -> list[AnalysisResult]:
    """Results in folders (searched recursively, sorted by path); missing folders hold none."""
    paths = [p for folder in folders if Path(folder).is_dir() for p in sorted(Path(folder).rglob(f"*{SUFFIX}"))]
    results = [read_result(p) for p in paths]
    return [r for r in results if analysis is None or r.analysis == analysis]
