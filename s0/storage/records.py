"""One record per (cell, seed): everything a reviewer needs to trust, or to redo, one number.

A record is a versioned JSON file; beside it lies a JSONL file with one line per problem holding the full completions
and verdicts. Tables, figures and the paper read records and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from s0.data import Outcome, digest
from s0.errors import StoreError
from s0.storage.files import write_jsonl, write_rows

SCHEMA_VERSION = 1

Status = Literal["ok", "no_solutions", "failed"]


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of one configuration on the held-out problems.

    `protocol` is "greedy" (one completion, pass@1 = correct / n) or "sampled" (`n_samples` completions per problem at
    `temperature`; per-problem counts are kept, so pass@k can be computed for every k <= n_samples).
    """

    label: str
    protocol: Literal["greedy", "sampled"]
    outcomes: list[Outcome]
    n_samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    #: how padding was treated: "exact", or "legacy" (decaying pads, as the published batched runs did)
    padding: Literal["exact", "legacy"] = "exact"
    legacy_batch: int = 0

    @property
    def accuracy(self) -> float:
        """Fraction in [0, 1]: greedy pass@1, or the mean of c/n when sampled."""
        if not self.outcomes:
            return float("nan")
        return sum((o.c / o.n) if self.protocol == "sampled" else float(o.passed) for o in self.outcomes) / len(
            self.outcomes
        )

    def to_json(self) -> dict[str, Any]:
        data = dataclasses.asdict(self)
        data["accuracy"] = self.accuracy
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Evaluation:
        data = {k: v for k, v in data.items() if k != "accuracy"}
        return cls(**{**data, "outcomes": [Outcome.from_json(o) for o in data["outcomes"]]})


@dataclass(frozen=True)
class TrainingSummary:
    """What training used and how it went; lists have one entry per optimiser step."""

    n_problems: int = 0
    n_samples: int = 0
    n_passed: int = 0
    n_solutions: int = 0
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    #: mean over layers of the Frobenius norm of the learned state (before alpha), 0 where there is none
    avg_state_norm: float = 0.0
    alpha: float | None = None
    #: "config", "architecture default", or "auto" (chosen on a validation part of the training problems)
    alpha_source: str = ""
    #: alpha -> accuracy on the validation part, where alpha was chosen
    alpha_scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """See the module docstring. `model`, `task`, `method`, `alpha`, `seed` identify the cell; `wall_s` is seconds by stage.

    `baseline`, `tuned` and `controls` are None / empty where the run did not get that far (`status` != "ok").
    """

    key: str
    status: Status
    experiment: str
    model: str
    task: str
    method: str
    seed: int
    alpha: float | None
    error: str | None
    config: dict[str, Any]
    config_hash: str
    #: name, path, family, architecture, weights_sha256, tokenizer_sha256, dtype, n_parameters, recurrent_layers, state_shape
    model_info: dict[str, Any]
    #: name, dataset_hash, n_train, n_heldout, source
    task_info: dict[str, Any]
    #: label, trainable_params, inference_cost ("none" | "merge" | "per-step" | "extra tokens")
    method_info: dict[str, Any]
    training: TrainingSummary
    baseline: Evaluation | None
    tuned: Evaluation | None
    controls: dict[str, Evaluation]
    #: key of the baseline evaluation: records with the same key share one baseline (their seeds are not independent in it)
    baseline_key: str
    #: commit, dirty, versions{package: version}, device, device_name, n_threads, isolation, platform, deterministic, command
    environment: dict[str, Any]
    wall_s: dict[str, float]
    created: str
    schema_version: int = SCHEMA_VERSION

    @property
    def delta_pp(self) -> float:
        """Tuned minus baseline accuracy in percentage points (nan where either is missing)."""
        if self.baseline is None or self.tuned is None:
            return float("nan")
        return 100.0 * (self.tuned.accuracy - self.baseline.accuracy)

    def flips(self) -> tuple[list[str], list[str]]:
        """(newly solved, newly broken) problem ids, by the verdict of the first (greedy) completion."""
        if self.baseline is None or self.tuned is None:
            return [], []
        before = {o.problem_id: o.passed for o in self.baseline.outcomes}
        solved = [o.problem_id for o in self.tuned.outcomes if o.passed and not before[o.problem_id]]
        broken = [o.problem_id for o in self.tuned.outcomes if not o.passed and before[o.problem_id]]
        return solved, broken

    def to_json(self) -> dict[str, Any]:
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["training"] = dataclasses.asdict(self.training)
        data["baseline"] = self.baseline.to_json() if self.baseline else None
        data["tuned"] = self.tuned.to_json() if self.tuned else None
        data["controls"] = {k: v.to_json() for k, v in self.controls.items()}
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any], source: str = "record") -> Record:
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{source}: schema_version={version!r}: this version reads {SCHEMA_VERSION}; "
                "rerun the cell with this version or read it with the version that wrote it"
            )
        known = {f.name for f in dataclasses.fields(cls)}
        wrong = sorted(known.symmetric_difference(data))
        if wrong:
            raise StoreError(
                f"{source}: field(s) {', '.join(wrong)} missing or unknown; the file is not a whole record"
            )
        data = dict(data)
        data["training"] = TrainingSummary(**data["training"])
        for name in ("baseline", "tuned"):
            data[name] = Evaluation.from_json(data[name]) if data[name] else None
        data["controls"] = {k: Evaluation.from_json(v) for k, v in data["controls"].items()}
        return cls(**data)


def record_stem(record: Record) -> str:
    """File stem of a record: readable parts first, then the key that makes it unique."""
    return f"{record.model}__{record.task}__{record.method}__seed{record.seed}__{record.key}"


def write_record(folder: Path, record: Record, problems: list[dict[str, Any]] | None = None) -> Path:
    """Write `<stem>.json` and, first, `<stem>.jsonl` (a record on disk always has its problems). Returns the JSON path."""
    stem = Path(folder) / record_stem(record)
    if problems is not None:
        write_jsonl(stem.with_name(stem.name + ".jsonl"), problems)
    path = stem.with_name(stem.name + ".json")
    write_rows(path, record.to_json())
    return path


def read_record(path: Path) -> Record:
    """Read one record. Raises StoreError naming the file when it is torn, foreign or of another schema version."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path}: not a readable record ({error}); give record files (*__seedN__KEY.json) or folders that hold them"
        ) from error
    return Record.from_json(data, str(path))


def find_record(folder: Path, key: str) -> Record | None:
    """The finished record with this key in `folder` (not searched deeper), or None. Failed records do not count."""
    for path in sorted(Path(folder).glob(f"*__{key}.json")):
        record = read_record(path)
        if record.status != "failed":
            return record
    return None


def fingerprint(record: Record) -> str:
    """Hash of everything in a record that the same config, seed and machine must reproduce: all but times, dates, the
    command line, what the engine noted, and the time each check took."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items() if k != "seconds"}
        return [clean(v) for v in value] if isinstance(value, list) else value

    data = record.to_json()
    for name in ("wall_s", "created", "environment"):
        data.pop(name)
    for name in ("records", "store", "out", "tracking", "workers", "dry_run"):
        data["config"].pop(name, None)
    return digest(clean(data))


def find_records(paths: list[Path]) -> list[Path]:
    """Record files among `paths` (files, or folders searched recursively), sorted. Raises StoreError for a missing path."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(p for p in path.rglob("*__seed*__*.json") if not p.name.startswith("."))
        elif path.exists():
            found.append(path)
        else:
            raise StoreError(f"{path}: no such file or folder; give record files or folders that hold them")
    return list(dict.fromkeys(found))
