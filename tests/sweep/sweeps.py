"""The sweep all tests of this folder compare with: five alphas, two seeds, undisturbed, run once."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SWEEP = ["method.alpha=0.03,0.05,0.07,0.1,0.15", "seed=0..1"]


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_sweep", ROOT / "scripts" / "check_sweep.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_sweep"] = module
    spec.loader.exec_module(module)
    return module


check_sweep = _script()


class Undisturbed(NamedTuple):
    trial: object
    fingerprints: dict[str, str]
