"""Limits and resources of this process."""

from __future__ import annotations

import gc
import os
import resource


def free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def raise_file_limit() -> None:
    """A cell holds one claim per log it writes; the usual soft limit of 1024 open files is for other programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))


def set_threads(wanted: int | None) -> None:
    """Torch's CPU threads: as configured, else this worker's share, else the cores this process may use."""
    import torch

    share = int(os.environ.get("S0_THREADS", 0))
    torch.set_num_threads(wanted or share or len(os.sched_getaffinity(0)))
