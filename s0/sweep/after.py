"""What happens to the records of a cell besides being kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from s0.config.schema import Config
from s0.errors import S0Error
from s0.storage.records import Record
from s0.tracking.base import track


class OverfitFailed(S0Error):
    """Training could not fit one batch: the loss did not fall far enough, so something in training is broken."""


#: an overfitting run must end below this fraction of its first loss
OVERFIT_FRACTION = 0.5


def check_overfit(records: Sequence[Record]) -> None:
    """Print first and last loss of each record, and raise OverfitFailed unless every loss fell below half."""
    for r in records:
        losses = r.training.losses
        if not losses:
            raise OverfitFailed(
                f"debug.overfit: seed {r.seed} was not trained ({r.error or 'this method does not train'})"
            )
        print(f"  overfit: seed {r.seed}, loss {losses[0]:.4f} -> {losses[-1]:.4f} in {len(losses)} steps", flush=True)
        if not losses[-1] < OVERFIT_FRACTION * losses[0]:
            raise OverfitFailed(
                f"debug.overfit: seed {r.seed}: loss {losses[0]:.4f} -> {losses[-1]:.4f}, not below "
                f"{OVERFIT_FRACTION:g} of the first; raise method.lr or method.n_steps, or look for a bug in training"
            )


def after_cell(config: Config, resources: Any, records: list[Any]) -> None:
    """What happens to records besides being kept: the preset's analysis, tracking, and the check of a debugging run."""
    if config.analysis:
        # start-up: scikit-learn
        from s0.analysis.run import analyse

        analyse(config, resources, records)
    if config.tracking.name != "none":
        track(config.tracking, records)
    if config.debug.overfit:
        check_overfit(records)
