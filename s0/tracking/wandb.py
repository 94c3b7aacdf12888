"""Experiment tracking: one wandb run per record, made from the finished record, so that a run is always whole and finished.

python run.py tracking=wandb                        online with a key (WANDB_API_KEY or ~/.netrc), offline without one
python run.py tracking=wandb tracking.mode=offline
wandb sync outputs/tracking/wandb/offline-run-*     later, from a machine with a key
"""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from s0.config.schema import WandbTracking
from s0.storage.records import Evaluation, Record


def write_run(config: WandbTracking, record: Record) -> str:
    """Write one record as one run. Returns its address, or its folder where it is offline."""
    import wandb

    folder = Path(config.dir)
    folder.mkdir(parents=True, exist_ok=True)
    label = record.method_info.get("label", record.method)
    run = wandb.init(
        project=config.project,
        entity=config.entity,
        group=config.group or record.experiment or f"{record.model}/{record.task}/{label}",
        job_type=record.method,
        name=f"{record.model}/{record.task}/{label}/seed{record.seed}",
        id=f"{record.key}-{record.seed}",  # tracked twice, it is still one run
        resume="allow",
        tags=tags(config, record),
        config=record.config,
        dir=str(folder),
        mode=mode(config.mode),
        reinit="create_new",
        settings=wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            save_code=False,
            x_disable_stats=True,
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", 30)),
        ),
    )
    code = 1
    try:
        t = record.training
        run.define_metric("train/*", step_metric="train/step")
        for n, loss in enumerate(t.losses):
            norm = {"train/grad_norm": t.grad_norms[n]} if n < len(t.grad_norms) else {}
            run.log({"train/step": n + 1, "train/loss": loss, **norm})
        run.log({"problems": wandb.Table(columns=["problem", *COLUMNS], data=problem_rows(record))})
        run.summary.update(summary(record))
        code = 0 if record.status == "ok" else 1
    finally:
        run.finish(exit_code=code)
    return str(run.url) if not run.offline else str(Path(run.dir).parent)


#: per-problem columns, besides the problem's id
COLUMNS = [
    "baseline",
    "baseline_verdict",
    "tuned",
    "tuned_verdict",
    "change",
    "baseline_completion",
    "tuned_completion",
]


def problem_rows(record: Record) -> list[list[Any]]:
    """One row per held-out problem: verdicts before and after, what changed, and both completions."""
    before, after = _by_problem(record.baseline), _by_problem(record.tuned)
    rows = []
    for problem in dict.fromkeys([*before, *after]):
        b, a = before.get(problem), after.get(problem)
        change = "" if b is None or a is None or b.passed == a.passed else ("solved" if a.passed else "broken")
        rows.append(
            [
                problem,
                *(x for o in (b, a) for x in ((o.passed, o.verdict.kind) if o else (None, None))),
                change,
                *(o.completion if o else None for o in (b, a)),
            ]
        )
    return rows


def _by_problem(evaluation: Evaluation | None) -> dict[str, Any]:
    return {o.problem_id: o for o in evaluation.outcomes} if evaluation else {}


def summary(record: Record) -> dict[str, Any]:
    """Numbers of one record: accuracies in [0, 1], delta in percentage points, counts, seconds by stage."""
    solved, broken = record.flips()
    found: dict[str, Any] = {
        "status": record.status,
        "baseline/accuracy": record.baseline.accuracy if record.baseline else None,
        "tuned/accuracy": record.tuned.accuracy if record.tuned else None,
        "delta_pp": record.delta_pp if record.baseline and record.tuned else None,
        "newly_solved": len(solved),
        "newly_broken": len(broken),
        "alpha": record.training.alpha,
        "train/n_solutions": record.training.n_solutions,
        "train/n_passed": record.training.n_passed,
        "train/avg_state_norm": record.training.avg_state_norm,
        **{f"{name}/accuracy": e.accuracy for name, e in record.controls.items()},
        **{f"wall_s/{stage}": seconds for stage, seconds in record.wall_s.items()},
    }
    return {k: v for k, v in found.items() if v is not None}


def tags(config: WandbTracking, record: Record) -> list[str]:
    """The config's tags, then what the record is about."""
    own = [record.model, record.task, record.method, record.experiment, f"seed{record.seed}"]
    return list(dict.fromkeys(t for t in [*config.tags, *own] if t))


def mode(wanted: str | None) -> Any:
    """ "online" or "offline": as configured, else as WANDB_MODE says, else online exactly if there is a key."""
    if wanted or os.environ.get("WANDB_MODE"):
        return str(wanted or os.environ["WANDB_MODE"])
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        known = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return "offline"
    return "online" if host in known else "offline"
