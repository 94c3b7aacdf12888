"""What the debug group switches on besides limits: a profile of the run, and a check that training can fit one batch."""

from __future__ import annotations

import contextlib
import cProfile
import pstats
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s0.errors import S0Error
from s0.storage.files import write_text

if TYPE_CHECKING:
    from s0.storage.records import Record


class OverfitFailed(S0Error):
    """Training could not fit one batch: the loss did not fall far enough, so something in training is broken."""


#: an overfitting run must end below this fraction of its first loss
OVERFIT_FRACTION = 0.5


@contextlib.contextmanager
def profiled(config: dict[str, Any]) -> Iterator[None]:
    """With debug.profile: Python functions (`profile.prof` for pstats or snakeviz, `profile.txt`) and torch operators
    (`profile_ops.txt`) of everything inside, written into the folder `out`. Without it: nothing."""
    if not config["debug"]["profile"]:
        yield
        return
    from torch.profiler import profile

    out = Path(config["out"])
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
