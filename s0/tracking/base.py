"""Experiment tracking: each finished record once, remembered beside the tracker's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s0.errors import S0Error
from s0.storage.files import write_text
from s0.storage.records import Record, fingerprint
from s0.tracking.wandb import write_run


class TrackingError(S0Error):
    """Tracking failed. The records are complete; the same command tries to track them again."""


def track(config: dict[str, Any], records: Sequence[Record]) -> None:
    """Track those records that are not tracked yet (remembered in `<dir>/tracked/`). `config` is the group `tracking`.

    Raises TrackingError.
    """
    folder = Path(config["dir"])
    for record in records:
        done = folder / "tracked" / f"{config['project']}__{record.key}__{fingerprint(record)}"
        if done.exists():
            continue
        try:
            where = write_run(config, record)
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise TrackingError(
                f"tracking seed {record.seed} with wandb failed ({first}); use tracking.mode=offline or tracking=none, or "
                "run the same command again: the records are kept"
            ) from error
        write_text(done, where + "\n")
        print(f"  tracked: {where}", flush=True)
