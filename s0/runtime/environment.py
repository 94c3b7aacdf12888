"""What a record says about where and how it was made."""

from __future__ import annotations

import functools
import platform
import subprocess
from typing import Any

from s0.experiment.checkpoint import Subject, versions
from s0.paths import ROOT


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the checkout the package runs from; nulls where there is none (installed package)."""

    def git(*args: str) -> str | None:
        try:
            out = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return out.stdout.strip() if out.returncode == 0 else None

    if not (ROOT / ".git").exists():
        return {"commit": None, "dirty": None}
    # what a run itself writes into the checkout does not make its code another one
    status = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)experiments", ":(exclude)paper")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def describe_environment(subject: Subject, lab: Any, engine: Any, command: str) -> dict[str, Any]:
    """commit, dirty, versions, device, threads, isolation tier, platform, determinism and the command line."""
    import torch

    cuda = subject.device.startswith("cuda")
    return {
        **git_state(),
        "versions": versions(),
        "python": platform.python_version(),
        "device": subject.device,
        "device_name": subject.device_name,
        "n_threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
        "isolation": lab.tier(),
        "engine": dict(engine.notes),
        # CUDA matrix products and scatter-adds choose kernels by shape: repeated runs agree closely, not bit for bit
        "deterministic": not cuda,
        "command": command,
    }
