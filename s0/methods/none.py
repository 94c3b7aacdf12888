"""No adaptation: the baseline as a cell of its own."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, ClassVar

from s0.methods.base import Adapter, CostClass, Method, unchanged
from s0.storage.files import write_json
from s0.training.jobs import Curve, FitContext, TrainingSet


class NoAdapter(Adapter):
    curve = Curve()

    def applied(self, model: Any) -> contextlib.AbstractContextManager[Any]:
        return unchanged(model)

    def save(self, folder: Path) -> None:
        write_json(folder / "none.json", {})


class NoMethod(Method):
    name = "none"
    trains = False
    inference_cost: ClassVar[CostClass] = "none"

    def fit(self, ctx: FitContext, sets: list[TrainingSet]) -> list[Adapter]:
        return [NoAdapter() for _ in sets]

    def load(self, ctx: FitContext, folder: Path) -> Adapter:
        return NoAdapter()
