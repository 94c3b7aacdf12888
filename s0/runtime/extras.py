"""What optional features need, and the line that installs it anywhere: with or without this repository."""

from __future__ import annotations

#: extra -> requirements, as in pyproject.toml
EXTRAS: dict[str, tuple[str, ...]] = {
    "gpu": ("flash-linear-attention>=0.5",),
    "lora": ("peft>=0.19,<0.22",),
    "wandb": ("wandb>=0.19",),
    "ray": ("hydra-ray-launcher>=1.2.2,<1.3", "ray[default]>=2.40,<3", "joblib<1.6"),
    "slurm": ("hydra-submitit-launcher>=1.2,<1.3", "submitit>=1.5"),
    "optuna": ("hydra-optuna-sweeper>=1.3,<1.4",),
}


def install_line(extra: str) -> str:
    """The pip command for an extra, by its requirements: it needs neither the repository nor a name on the index."""
    return f"pip install {' '.join(repr(r) for r in EXTRAS[extra])}"
