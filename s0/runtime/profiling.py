"""What the debug group switches on besides limits: a profile of the run, and a check that training can fit one batch."""

from __future__ import annotations

import contextlib
import cProfile
import pstats
from collections.abc import Iterator
from pathlib import Path

from s0.storage.files import write_text


@contextlib.contextmanager
def profiled(wanted: bool, out: Path) -> Iterator[None]:
    """If wanted: Python functions (`profile.prof` for pstats or snakeviz, `profile.txt`) and torch operators
    (`profile_ops.txt`) of everything inside, written into the folder `out`. Otherwise: nothing."""
    if not wanted:
        yield
        return
    from torch.profiler import profile

    python = cProfile.Profile()
    try:
        with profile() as operators:
            python.enable()
            try:
                yield
            finally:
                python.disable()
    finally:
        out.mkdir(parents=True, exist_ok=True)
        python.dump_stats(str(out / "profile.prof"))
        with open(out / "profile.txt", "w", encoding="utf-8") as f:
            pstats.Stats(python, stream=f).sort_stats("cumulative").print_stats(60)
        averages = operators.key_averages()
        device = any(getattr(a, "self_device_time_total", 0) for a in averages)
        order = "self_cuda_time_total" if device else "self_cpu_time_total"
        write_text(out / "profile_ops.txt", averages.table(sort_by=order, row_limit=60) + "\n")
        print(f"profile: {out}/profile.prof, profile.txt (Python), profile_ops.txt (torch operators)", flush=True)
