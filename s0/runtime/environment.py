"""What a record says about where and how it was made."""

from __future__ import annotations

import functools
import importlib.metadata
import subprocess
from typing import Any

from s0 import __version__
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


#: what a record names; the first line decides what decoding and training compute (`s0.storage.keys.NUMERICAL`)
PACKAGES = (
    *("torch", "transformers", "flash-linear-attention", "causal-conv1d", "mamba-ssm", "triton"),
    *("tokenizers", "numpy", "scipy", "peft"),
)


def versions() -> dict[str, str]:
    """Installed versions of the packages a result depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "s0": __version__}
