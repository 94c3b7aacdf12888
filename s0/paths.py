"""Where the package and what travels with it lie, in a checkout and installed."""

from __future__ import annotations

from pathlib import Path

#: the installed package
PACKAGE = Path(__file__).resolve().parent
#: the repository of a checkout; the folder the package is installed in otherwise
ROOT = PACKAGE.parent


def _shipped(inside: str, checkout: str) -> Path:
    """A folder that the build copies into the package (setup.py), or the one of the checkout."""
    copy = PACKAGE / inside
    return copy if copy.is_dir() else ROOT / checkout


#: the config groups
CONFIGS = _shipped("_configs", "configs")
#: the published figures that tables show beside measured ones
PUBLISHED = _shipped("_published", "experiments/published")
#: the paper's text; a checkout alone has it
PAPER_SOURCE = ROOT / "paper" / "s0_tuning.tex"
#: the embedded models, one folder each
EMBEDDED_MODELS = PACKAGE / "tiny"


def refuse_published() -> None:
    """Raise ImportError where the published `s0-tuning` is installed in the same folder: both own `s0` and `s0_tuning`, pip
    does not say so, and whichever came second has overwritten the other's files."""
    found = next(PACKAGE.parent.glob("s0_tuning-*.dist-info"), None)
    if found is not None:
        version = found.name.removesuffix(".dist-info").partition("-")[2]
        raise ImportError(
            f"s0-tuning {version} is installed beside s0-states and owns the import name s0 as well: pip uninstall -y "
            "s0-tuning s0-states, then install s0-states again"
        )
