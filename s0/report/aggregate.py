"""From records to table rows: one row per cell, statistics over its seeds.

A cell is (experiment, model, task, method label, alpha, padding, settings). `settings` are the method's and task's
configuration: two records that differ in them are never averaged, and the differing keys are shown in the row's name.

The order in which records arrive plays no part: rows stand in the order of their cells (`sort_key`: experiment, model,
task, method, alpha, padding; numbers inside names by value), seeds and problems of a row are sorted.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from s0 import stats
from s0.stats import Interval, MeanStd
from s0.storage.records import Evaluation, Record, find_records, read_record

#: configuration groups that define what was measured; engine, tracking and folders do not
_DEFINING_GROUPS = ("method", "task")
#: shown in columns of their own, or where data lies and how long grading may take
_IGNORED_KEYS = frozenset(
    {"method.name", "method.alpha", "method.alpha_grid", "method.control", "task.name", "task.path", "task.hub_id",
     "task.hub_revision", "task.database_dir", "task.grading_timeout_s", "task.legacy_padding", "task.legacy_batch",
     "task.ks"}
)  # fmt: skip
_NAN = MeanStd(math.nan, math.nan, 0)


@dataclass(frozen=True)
class Row:
    """One table row. Accuracies are percent, deltas percentage points; `n_seeds` counts the records with status "ok".

    `p_value` is the one to lead with: over what `interval.over` names, seeds and problems where the seeds saw the same
    problems. `p_holm` is it after Holm's adjustment for the `n_family` settings of the same method that were tried.
    `welch_p` (the published test) and `paired_p` are over seeds only: they ask for other seeds on these very problems.
    Where seeds share one baseline evaluation Welch's baseline sample is one number repeated, and both are the same.
    """

    experiment: str
    model: str
    task: str
    method: str
    label: str
    alpha: str
    padding: str
    protocol: str
    n_seeds: int
    seeds: tuple[int, ...]
    status: Mapping[str, int]
    base: MeanStd = _NAN
    tuned: MeanStd = _NAN
    delta: MeanStd = _NAN
    solved: MeanStd = _NAN
    broken: MeanStd = _NAN
    controls: Mapping[str, MeanStd] = field(default_factory=dict)
    p_value: float = math.nan
    p_holm: float = math.nan
    n_family: int = 1
    welch_p: float = math.nan
    paired_p: float = math.nan
    #: exact McNemar test over problems, for a cell of one seed evaluated greedily
    mcnemar_p: float = math.nan
    effect_size: float = math.nan
    interval: Interval = field(default_factory=lambda: Interval(math.nan, math.nan, math.nan, "none"))
    n_baselines: int = 0
    n_problems: int = 0
    #: False where the seeds were evaluated on different problems: there is no p or interval over problems then
    same_problems: bool = True
    #: what each seed chose, for alpha=auto, in increasing order, and how many of them lie at an end of their grid
    chosen_alphas: tuple[float, ...] = ()
    n_alpha_at_edge: int = 0
    #: records of a seed that a newer record with equal settings replaces
    n_superseded: int = 0

    @property
    def shared_baseline(self) -> bool:
        """True where at least two seeds were compared with the same baseline evaluation."""
        return 0 < self.n_baselines < self.n_seeds

    @property
    def baseline_note(self) -> str:
        if not self.shared_baseline:
            return ""
        if self.n_baselines == 1:
            return f"{self.n_seeds} seeds share one baseline evaluation"
        return f"{self.n_seeds} seeds share {self.n_baselines} baseline evaluations"

    @property
    def alpha_text(self) -> str:
        """The alpha, or the median of what `auto` chose with its range over seeds: `0.3 (0.1–1)`."""
        if not self.chosen_alphas:
            return self.alpha
        low, high = self.chosen_alphas[0], self.chosen_alphas[-1]
        middle = f"{float(np.median(self.chosen_alphas)):.3g}"
        return middle if low == high else f"{middle} ({low:g}–{high:g})"

    @property
    def control(self) -> MeanStd:
        """Delta of the random-state control over the baseline (the first control where there are several)."""
        return next(iter(self.controls.values()), _NAN)

    @property
    def seed_text(self) -> str:
        return compact_seeds(self.seeds)

    @property
    def status_text(self) -> str:
        return ", ".join(f"{self.status[name]} {name}" for name in sorted(self.status, key=lambda s: (s != "ok", s)))


def compact_seeds(seeds: Sequence[int]) -> str:
    """`(0, 1, 2, 7)` -> `0..2,7`: the form the command line takes."""
    parts: list[str] = []
    ordered = sorted(set(seeds))
    start = 0
    for i in range(1, len(ordered) + 1):
        if i < len(ordered) and ordered[i] == ordered[i - 1] + 1:
            continue
        run = ordered[start:i]
        parts += [f"{run[0]}..{run[-1]}"] if len(run) > 2 else [str(s) for s in run]
        start = i
    return ",".join(parts)


def load_records(paths: Iterable[Path]) -> list[Record]:
    """Records in files and folders (searched recursively). Raises StoreError for a missing path or a broken record."""
    return [read_record(p) for p in find_records(list(paths))]


def method_label(record: Record) -> str:
    return str(record.method_info.get("label") or record.method)


def alpha_text(record: Record) -> str:
    """The alpha that defines the cell: "auto" where every seed chose its own on training problems."""
    if record.training.alpha_source == "auto" or record.config.get("method", {}).get("alpha") == "auto":
        return "auto"
    # a seed that was never trained has no alpha of its own
    alpha = record.alpha if record.alpha is not None else record.config.get("method", {}).get("alpha")
    return "" if alpha is None else f"{alpha:g}"


def _padding(record: Record) -> str:
    evaluation = record.tuned or record.baseline
    return evaluation.padding if evaluation else "exact"


def _flatten(prefix: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {k: v for key, item in value.items() for k, v in _flatten(f"{prefix}.{key}", item).items()}
    return {prefix: repr(value) if isinstance(value, list) else value}


#: other weights or other problems are another experiment even under the same name
_IDENTITY = ("weights", "dtype", "dataset")


def _settings(record: Record) -> dict[str, Any]:
    flat = {
        "weights": str(record.model_info.get("weights_sha256"))[:8],
        "dtype": record.model_info.get("dtype"),
        "dataset": str(record.task_info.get("dataset_hash"))[:8],
    }
    for group in _DEFINING_GROUPS:
        if group in record.config:
            flat |= _flatten(group, record.config[group])
    return {k: v for k, v in flat.items() if k not in _IGNORED_KEYS}


def _complete(settings: list[dict[str, Any]], members: list[Record]) -> None:
    """A failed record may not know its weights and data (it failed before); it belongs to the cell that agrees otherwise."""

    def others(values: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in values.items() if k not in _IDENTITY}

    known = [s for s, r in zip(settings, members, strict=True) if r.status != "failed"]
    for values, record in zip(settings, members, strict=True):
        if record.status == "failed":
            like = next((s for s in known if others(s) == others(values)), known[0] if known else values)
            values.update({k: like[k] for k in _IDENTITY})


def sort_key(texts: Sequence[str]) -> list[list[tuple[int, float, str]]]:
    """Sorts names with the numbers inside them by value: lora_r8 before lora_r24, alpha 0.3 before 1, auto last."""

    def parts(text: str) -> list[tuple[int, float, str]]:
        pieces = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", text)
        return [(0, float(v), v) if i % 2 else (1, 0.0, v) for i, v in enumerate(pieces) if v]

    return [parts(text) for text in texts]


def _cell(record: Record) -> tuple[str, ...]:
    label, alpha = method_label(record), alpha_text(record)
    return (record.experiment, record.model, record.task, label, alpha, _padding(record))


def _newer(a: Record, b: Record) -> bool:
    """Whether `a` replaces `b`; a tie in time is broken by what they hold, so that the order they came in cannot."""
    if (a.created, a.key) != (b.created, b.key):
        return (a.created, a.key) > (b.created, b.key)
    return repr(a) > repr(b)


def ordered(records: Sequence[Record]) -> list[Record]:
    """Records in the one order every table and figure uses: by cell, then seed, then key and time."""
    return sorted(records, key=lambda r: (sort_key(_cell(r)), r.seed, r.key, r.created))


def group_records(records: Sequence[Record]) -> dict[tuple[str, ...], list[Record]]:
    """Records by cell, cells and seeds in order (`sort_key`); of records with equal keys the newest.

    Keys are (experiment, model, task, label, alpha, padding); where one such cell holds different settings it is split
    and the label gets the differing keys, as in `s0 [method.layers=early]`. Records that did not finish are put in the
    cell of their own settings, so that they are counted where they belong.
    """
    newest: dict[tuple[str, str], Record] = {}
    for record in records:
        # two experiments may share a cell; each keeps its own record of it
        identity = (record.experiment, record.key)
        if identity not in newest or _newer(record, newest[identity]):
            newest[identity] = record
    cells: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in ordered(list(newest.values())):
        cells[_cell(record)].append(record)
    split: dict[tuple[str, ...], list[Record]] = {}
    for cell, members in cells.items():
        settings = [_settings(r) for r in members]
        _complete(settings, members)
        keys = sorted({k for s in settings for k in s})
        differing = [k for k in keys if len({s.get(k) for s in settings}) > 1]
        for record, values in zip(members, settings, strict=True):
            suffix = ", ".join(f"{k}={values.get(k)}" for k in differing)
            label = f"{cell[3]} [{suffix}]" if suffix else cell[3]
            split.setdefault((*cell[:3], label, *cell[4:]), []).append(record)
    return {cell: split[cell] for cell in sorted(split, key=sort_key)}


def scores(evaluation: Evaluation) -> dict[str, float]:
    """Problem id -> correctness in [0, 1]: 0 or 1 when greedy, c / n when sampled."""
    if evaluation.protocol == "sampled":
        return {o.problem_id: o.c / o.n for o in evaluation.outcomes}
    return {o.problem_id: float(o.passed) for o in evaluation.outcomes}


def difference_matrix(records: Sequence[Record]) -> Any:
    """Tuned minus baseline correctness, float [seeds, problems], both sorted; None where seeds saw different problems."""
    rows, order = [], None
    for record in sorted(records, key=lambda r: r.seed):
        if record.tuned is None or record.baseline is None:
            return None
        tuned, base = scores(record.tuned), scores(record.baseline)
        order = order if order is not None else sorted(tuned)
        if set(tuned) != set(order) or set(base) != set(order):
            return None
        rows.append([tuned[p] - base[p] for p in order])
    return np.asarray(rows, dtype=np.float64) if rows else None


def aggregate(records: Sequence[Record]) -> list[Row]:
    """One row per cell, whatever order the records come in. Records that are not "ok" are counted in `status` and enter
    no average. Rows of one method on one model and task (the alphas, layers, ranks of a sweep) are one family for Holm."""
    rows = [_row(cell, members) for cell, members in group_records(records).items()]
    families: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if not math.isnan(row.p_value):
            families[row.experiment, row.model, row.task, row.method].append(i)
    for members in families.values():
        adjusted = stats.holm([rows[i].p_value for i in members])
        for i, p in zip(members, adjusted, strict=True):
            rows[i] = replace(rows[i], p_holm=p, n_family=len(members))
    return rows


def _row(cell: tuple[str, ...], members: list[Record]) -> Row:
    experiment, model, task, label, alpha, padding = cell
    ok = newest_per_seed([r for r in members if r.status == "ok"])
    status: dict[str, int] = defaultdict(int)
    for record in members:
        status[record.status] += 1
    evaluation = next((e for r in ok for e in (r.tuned, r.baseline) if e is not None), None)
    chosen = [r for r in ok if alpha == "auto" and r.alpha is not None]
    row = Row(
        experiment,
        model,
        task,
        members[0].method,
        label,
        alpha,
        padding,
        evaluation.protocol if evaluation else "",
        len(ok),
        tuple(r.seed for r in ok),
        dict(status),
        n_problems=len(evaluation.outcomes) if evaluation else 0,
        n_superseded=sum(r.status == "ok" for r in members) - len(ok),
        n_baselines=len({r.baseline_key for r in ok if r.baseline is not None}),
        chosen_alphas=tuple(sorted(float(r.alpha or 0) for r in chosen)),
        n_alpha_at_edge=sum(at_edge(float(r.alpha or 0), r.training.alpha_scores) for r in chosen),
    )
    base = [100 * r.baseline.accuracy for r in ok if r.baseline is not None]
    row = replace(row, base=stats.mean_std(base))
    # "none" tunes nothing: its evaluation is the baseline itself
    both = [r for r in ok if r.baseline is not None and r.tuned is not None and r.method != "none"]
    if not both:
        return row
    before = [100 * r.baseline.accuracy for r in both if r.baseline is not None]
    after = [100 * r.tuned.accuracy for r in both if r.tuned is not None]
    deltas = [r.delta_pp for r in both]
    flips = [r.flips() for r in both]
    matrix = difference_matrix(both)
    paired_p = stats.paired_t(after, before).p_value
    if matrix is not None:
        found = stats.crossed(matrix)
        leading_p, interval = found.p_value, found.interval.times(100)
    else:
        leading_p, interval = paired_p, stats.mean_interval(deltas, over="seeds")
    return replace(
        row,
        tuned=stats.mean_std(after),
        delta=stats.mean_std(deltas),
        solved=stats.mean_std([len(s) for s, _ in flips]),
        broken=stats.mean_std([len(b) for _, b in flips]),
        controls=_controls(both),
        p_value=leading_p,
        p_holm=leading_p,
        welch_p=stats.welch(after, before).p_value,
        paired_p=paired_p,
        mcnemar_p=_mcnemar(both, flips),
        effect_size=stats.hedges_g(after, before),
        interval=interval,
        same_problems=matrix is not None,
    )


def at_edge(alpha: float, grid: Iterable[str | float]) -> bool:
    """Whether a chosen alpha is the smallest or largest of what it was chosen from: the best may lie outside."""
    values = sorted(float(a) for a in grid)
    return len(values) > 1 and alpha in (values[0], values[-1])


def _mcnemar(records: Sequence[Record], flips: Sequence[tuple[list[str], list[str]]]) -> float:
    if len(records) != 1 or records[0].tuned is None or records[0].tuned.protocol != "greedy":
        return math.nan
    return float(stats.mcnemar(len(flips[0][0]), len(flips[0][1])).p_value)


def newest_per_seed(records: list[Record]) -> list[Record]:
    """One record per seed, by seed. Two runs of one seed are not two seeds: the newer one counts."""
    newest: dict[int, Record] = {}
    for record in records:
        if record.seed not in newest or _newer(record, newest[record.seed]):
            newest[record.seed] = record
    return [newest[seed] for seed in sorted(newest)]


def _controls(records: Sequence[Record]) -> dict[str, MeanStd]:
    deltas: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for name, evaluation in record.controls.items():
            if record.baseline is not None:
                deltas[name].append(100 * (evaluation.accuracy - record.baseline.accuracy))
    # the random state first: it is the control the table has a column for
    order = sorted(deltas, key=lambda name: ("random" not in name, name))
    return {name: stats.mean_std(deltas[name]) for name in order}
