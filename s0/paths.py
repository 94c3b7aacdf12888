"""Where the package and, in a checkout, the repository lie."""

from __future__ import annotations

from pathlib import Path

#: the installed package
PACKAGE = Path(__file__).resolve().parent
#: the repository of a checkout; the folder the package is installed in otherwise
ROOT = PACKAGE.parent
#: the config groups
CONFIGS = ROOT / "configs"
#: the embedded models, one folder each
EMBEDDED_MODELS = PACKAGE / "tiny"
