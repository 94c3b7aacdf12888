"""Analysis results on disk: `<analysis>.<model>.<task>.seed<N>.analysis.json` beside the records they belong to.

A record holds what an evaluation measured; persistence curves and probe scores are measured inside the model and have a
file of their own. `values` is plain JSON whose keys the analysis documents.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s0.data import digest
from s0.errors import StoreError
from s0.storage.decode import Malformed, decode, read_json
from s0.storage.files import write_json

#: 2: `sha256`, the hash of everything else in the file, is new
SCHEMA_VERSION = 2
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
    data = {**dataclasses.asdict(result), "schema_version": SCHEMA_VERSION}
    write_json(path, {**data, "sha256": digest(data, 64)})
    return path


def read_result(path: Path) -> AnalysisResult:
    """Read one result. Raises StoreError, one line naming the file, for everything that is not a whole result."""
    way_out = "move it away and run the analysis again"
    data = read_json(Path(path), "analysis", way_out)
    try:
        if isinstance(data, dict) and data.get("schema_version") != 1:
            stated = data.pop("sha256", None)
            if stated != digest(data, 64):
                raise Malformed("sha256 is missing or not that of the contents")
        result = decode(AnalysisResult, data, "result")
        if result.schema_version not in (1, SCHEMA_VERSION):
            raise Malformed(f"schema_version={result.schema_version}: this version reads 1 and {SCHEMA_VERSION}")
        for name in ("analysis", "model", "task"):
            if not re.fullmatch(r"[^/\0]+", getattr(result, name)):
                raise Malformed(f"result.{name}={getattr(result, name)!r}: must be a name")
        if result.seed < 0:
            raise Malformed(f"result.seed={result.seed}: must not be negative")
    except Malformed as error:
        raise StoreError(f"{path}: {error}; {way_out}") from error
    return result


def find_results(folders: Sequence[Path], analysis: str | None = None) -> list[AnalysisResult]:
    """Results in folders (searched recursively, sorted by path); missing folders hold none."""
    paths = [p for folder in folders if Path(folder).is_dir() for p in sorted(Path(folder).rglob(f"*{SUFFIX}"))]
    results = [read_result(p) for p in paths]
    return [r for r in results if analysis is None or r.analysis == analysis]
