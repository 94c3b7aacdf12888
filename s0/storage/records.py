"""One record per (cell, seed): everything a reviewer needs to trust, or to redo, one number.

A record is a versioned JSON file; beside it lies a JSONL file with one line per problem holding the full completions
and verdicts. Tables, figures and the paper read records and nothing else.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from s0.data import Outcome, digest
from s0.errors import StoreError
from s0.storage.decode import Malformed, decode, read_json
from s0.storage.files import write_jsonl, write_rows

#: 2: `losses` is cross entropy alone and `objective` is with the penalty; `adapter`, `evaluation_keys` and `sha256` are new
SCHEMA_VERSION = 2

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


@dataclass(frozen=True)
class TrainingSummary:
    """What training used and how it went; lists have one entry per optimiser step.

    `losses` is the cross entropy per completion token as published (nats, mean over tokens, then over solutions),
    `objective` what was minimised: with the penalty on the norm of what is learned, where the method has one. Records of
    schema 1 kept the objective alone; where it had a penalty, `losses` is read as empty.
    """

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
    objective: list[float] = field(default_factory=list)


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
    #: key and folder of what was learned, as the run saw the folder; None where nothing was learned (and in schema 1)
    adapter: dict[str, str] | None = None
    #: baseline, tuned and every control -> key of its completions in the store ("" or missing in schema 1)
    evaluation_keys: dict[str, str] = field(default_factory=dict)
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
        """Plain JSON; `sha256` is the hash of everything else, so that no later change to the file goes unseen."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["training"] = dataclasses.asdict(self.training)
        data["baseline"] = self.baseline.to_json() if self.baseline else None
        data["tuned"] = self.tuned.to_json() if self.tuned else None
        data["controls"] = {k: v.to_json() for k, v in self.controls.items()}
        data["schema_version"] = SCHEMA_VERSION
        return {**data, "sha256": digest(data, 64)}

    @classmethod
    def from_json(cls, data: Any, source: str = "record") -> Record:
        """Raises StoreError naming the field unless `data` is exactly a record as this or an earlier version writes it."""
        try:
            return _decode(data)
        except Malformed as error:
            raise StoreError(f"{source}: {error}; {WAY_OUT}") from error


WAY_OUT = "the file is not a whole record as a run writes it: move it away and run the cell again"
#: checked bounds of numbers: field -> smallest value
_COUNTS = ("n_problems", "n_samples", "n_passed", "n_solutions")


def _decode(data: Any) -> Record:
    if not isinstance(data, dict):
        raise Malformed("the file holds no object")
    version = data.get("schema_version")
    if type(version) is not int or version not in (1, SCHEMA_VERSION):
        raise Malformed(
            f"schema_version={version!r}: this version reads 1 and {SCHEMA_VERSION}; rerun the cell with this version or "
            "read it with the version that wrote it"
        )
    data = dict(data)
    if version == 1:
        data = _from_schema_1(data)
    elif data.pop("sha256", None) != digest(data, 64):
        raise Malformed("sha256 is missing or not that of the contents")
    stated = {name: e.get("accuracy") for name, e in _evaluations(data) if isinstance(e, dict)}
    for name in ("baseline", "tuned"):
        data[name] = _without_accuracy(data.get(name))
    if isinstance(data.get("controls"), dict):
        data["controls"] = {k: _without_accuracy(e) for k, e in data["controls"].items()}
    record = decode(Record, data, "record")
    _check(record)
    for name, e in _evaluations(vars(record)):
        if e is not None and not _same(stated[name], e.accuracy):
            raise Malformed(f"record.{name}.accuracy={stated[name]!r}: its outcomes make {e.accuracy}")
    return record


def _without_accuracy(data: Any) -> Any:
    return {k: v for k, v in data.items() if k != "accuracy"} if isinstance(data, dict) else data


def _evaluations(data: dict[str, Any]) -> list[tuple[str, Any]]:
    controls = data.get("controls")
    named = list(controls.items()) if isinstance(controls, dict) else []
    return [*((n, data.get(n)) for n in ("baseline", "tuned")), *((f"controls.{k}", v) for k, v in named)]


def _same(given: Any, computed: float) -> bool:
    return type(given) in (int, float) and abs(given - computed) < 1e-9


def _from_schema_1(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record of schema 1, under today's names."""
    training = data.get("training")
    new = sorted({"adapter", "evaluation_keys", "sha256"} & set(data))
    if new or not isinstance(training, dict) or "objective" in training:
        raise Malformed("a record of schema 1 has no field adapter, evaluation_keys, sha256 or training.objective")
    config = data.get("config")
    method = config.get("method") if isinstance(config, dict) else None
    penalty = bool(method.get("l2_lambda")) if isinstance(method, dict) else True
    training = {**training, "objective": training.get("losses")}
    if penalty:
        training["losses"] = []
    key = data.get("baseline_key")
    return {**data, "training": training, "adapter": None, "evaluation_keys": {"baseline": key} if key else {}}


def _check(r: Record) -> None:
    """Rules between fields. Raises Malformed."""
    for name in ("model", "task", "method"):
        if not getattr(r, name):
            raise Malformed(f"record.{name} is empty")
    if not re.fullmatch(r"[\w.-]+", r.key):
        raise Malformed(f"record.key={r.key[:80]!r}: no key of a record")
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|\+00:00)", r.created):
        raise Malformed(f"record.created={r.created[:80]!r}: no date of a record")
    if r.seed < 0 or r.config.get("seed", r.seed) != r.seed:
        raise Malformed(f"record.seed={r.seed}: negative, or not config.seed={r.config.get('seed')!r}")
    if (r.status == "ok") != (r.error is None):
        raise Malformed(f"record.error={r.error!r}: with status {r.status}")
    if (r.status == "ok") != (r.tuned is not None) or (r.status != "failed" and r.baseline is None):
        raise Malformed(
            f"record.status={r.status}: with baseline and tuned {r.baseline is not None}, {r.tuned is not None}"
        )
    if any(v < 0 for v in r.wall_s.values()):
        raise Malformed("record.wall_s: negative seconds")
    if r.adapter is not None and set(r.adapter) != {"key", "folder"}:
        raise Malformed("record.adapter: must have key and folder")
    _check_training(r.training)
    if r.training.alpha != r.alpha:
        raise Malformed(f"record.alpha={r.alpha!r}: training.alpha is {r.training.alpha!r}")
    first = r.baseline or r.tuned
    for name, e in _evaluations(vars(r)):
        if e is None:
            continue
        _check_evaluation(e, f"record.{name}")
        assert first is not None
        if [o.problem_id for o in e.outcomes] != [o.problem_id for o in first.outcomes]:
            raise Malformed(f"record.{name}: other problems than the baseline's")
        if (e.protocol, e.n_samples, e.padding) != (first.protocol, first.n_samples, first.padding):
            raise Malformed(f"record.{name}: another protocol than the baseline's")


def _check_training(t: TrainingSummary) -> None:
    counts = [getattr(t, name) for name in _COUNTS]
    if min(counts) < 0 or not t.n_solutions <= t.n_passed <= t.n_samples:
        raise Malformed(f"record.training: {', '.join(f'{n}={v}' for n, v in zip(_COUNTS, counts, strict=True))}")
    lengths = {len(x) for x in (t.losses, t.objective, t.grad_norms) if x}
    if len(lengths) > 1:
        raise Malformed(f"record.training: losses, objective and grad_norms have {sorted(lengths)} steps")
    if t.avg_state_norm < 0 or any(x < 0 for x in (*t.losses, *t.objective, *t.grad_norms)):
        raise Malformed("record.training: a negative loss or norm")
    if any(not 0 <= score <= 1 for score in t.alpha_scores.values()):
        raise Malformed("record.training.alpha_scores: an accuracy outside 0..1")


def _check_evaluation(e: Evaluation, where: str) -> None:
    if not e.outcomes:
        raise Malformed(f"{where}.outcomes is empty")
    if (e.protocol == "greedy") != (e.n_samples == 1) or e.n_samples < 1:
        raise Malformed(f"{where}.n_samples={e.n_samples}: with protocol {e.protocol}")
    if e.temperature < 0 or not 0 < e.top_p <= 1 or (e.protocol == "greedy" and e.temperature != 0):
        raise Malformed(f"{where}: temperature={e.temperature}, top_p={e.top_p}, protocol {e.protocol}")
    if (e.padding == "legacy") != (e.legacy_batch > 0):
        raise Malformed(f"{where}.legacy_batch={e.legacy_batch}: with padding {e.padding}")
    seen = set()
    for n, o in enumerate(e.outcomes):
        if o.problem_id in seen:
            raise Malformed(f"{where}.outcomes[{n}]: problem {o.problem_id[:80]!r} occurs twice")
        seen.add(o.problem_id)
        most, least = (o.n, 1) if o.passed else (o.n - 1, 0)
        if o.n != e.n_samples or not least <= o.c <= most:
            raise Malformed(f"{where}.outcomes[{n}]: c={o.c} of n={o.n}, first verdict {o.verdict.kind}")
        if o.verdict.seconds < 0:
            raise Malformed(f"{where}.outcomes[{n}].verdict.seconds is negative")


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
    """Read one record. Raises StoreError, one line naming the file, for everything that is not a whole record."""
    way_out = "give record files (*__seedN__KEY.json) or folders that hold them"
    return Record.from_json(read_json(Path(path), "record", way_out), str(path))


def find_record(folder: Path, key: str) -> Record | None:
    """The finished record with this key in `folder` (not searched deeper), or None. Failed records do not count."""
    for path in sorted(Path(folder).glob(f"*__{key}.json")):
        record = read_record(path)
        if record.key != key:
            raise StoreError(f"{path}: its key is {record.key}, its name says {key}; {WAY_OUT}")
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
    for name in ("wall_s", "created", "environment", "sha256"):
        data.pop(name)
    if data["adapter"]:
        data["adapter"] = {"key": data["adapter"]["key"]}
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
