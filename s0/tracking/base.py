"""Experiment tracking: each finished record once, remembered beside the tracker's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s0.config.registry import find, load
from s0.errors import S0Error
from s0.storage.files import write_text
from s0.storage.records import Record, fingerprint


class TrackingError(S0Error):
    """Tracking failed. The records are complete; the same command tries to track them again."""


def track(config: Any, records: Sequence[Record]) -> None:
    """Track those records that are not tracked yet (remembered in `<dir>/tracked/`). `config` is the group `tracking`; its
    tracker is a function (config, record) -> where the record went.

    Raises TrackingError.
    """
    folder = Path(config.dir)
    write = load(find("tracking", config.name).target)
    for record in records:
        done = folder / "tracked" / f"{getattr(config, 'project', config.name)}__{record.key}__{fingerprint(record)}"
        if done.exists():
            continue
        try:
            where = write(config, record)
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise TrackingError(
                f"tracking seed {record.seed} with {config.name} failed ({first}); use tracking.mode=offline or "
                "tracking=none, or run the same command again: the records are kept"
            ) from error
        write_text(done, where + "\n")
        print(f"  tracked: {where}", flush=True)
