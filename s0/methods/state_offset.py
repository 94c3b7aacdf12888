"""State-offset tuning: a learned tensor per recurrent layer, added to the state at every time step (paper, baselines).

Trained like S0 (same loss, Adam, all jobs in one batch), but the offset acts at every step, during decoding too: that is
what it costs. `s0.kernels.offsets` has the identity that makes it exact with chunked kernels.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
from torch import Tensor

from s0.config.schema import StateOffsetMethod
from s0.errors import ArchitectureError, ConfigError, StoreError
from s0.kernels.offsets import Offsets
from s0.methods.base import Adapter, AlphaChoice, CostClass, JobMethod
from s0.methods.s0 import choose_layers
from s0.state.cache import TrainingCache
from s0.state.families import Layout, describe, device_of_layer
from s0.storage.files import atomic_path, write_json
from s0.training.jobs import Curve, FitConfig, FitContext, FitJob, FitResult, TrainingSet


class OffsetAdapter(Adapter):
    """tensors: layer -> fp32 offset of the layer's state shape, before alpha; mode "accumulate" or "readout"."""

    def __init__(self, tensors: dict[int, Tensor], architecture: str, alpha: float, mode: str, curve: Curve):
        self.tensors = {i: t.detach().cpu().float().contiguous() for i, t in sorted(tensors.items())}
        self.architecture, self.alpha, self.mode, self.curve = architecture, alpha, mode, curve
        self.trainable_params = sum(t.numel() for t in self.tensors.values())

    @property
    def use(self) -> Any:
        return {"alpha": self.alpha}

    def check(self, layout: Layout) -> None:
        """Raise ArchitectureError unless the offsets fit the model."""
        if self.architecture != layout.architecture:
            raise ArchitectureError(
                f"state_offset: learned for {self.architecture}, but the model is {layout.architecture}; fit it on this model"
            )
        for i, t in self.tensors.items():
            if tuple(t.shape) != layout.shapes.get(i):
                raise ArchitectureError(
                    f"state_offset: layer {i} has shape {tuple(t.shape)}, the model's is {layout.shapes.get(i)}; "
                    "fit it on this model"
                )

    def at(self, alpha: float | None, settings: StateOffsetMethod) -> OffsetAdapter:
        assert alpha is not None
        return OffsetAdapter(self.tensors, self.architecture, alpha, self.mode, self.curve)

    @contextlib.contextmanager
    def applied(self, model: Any) -> Iterator[Any]:
        layout = describe(model)
        self.check(layout)
        rows = {i: self.alpha * t[None].to(device_of_layer(layout.mixers[i])) for i, t in self.tensors.items()}
        with Offsets(layout, rows, self.mode):
            yield model

    def save(self, folder: Path) -> None:
        folder = Path(folder)
        with atomic_path(folder / "offsets.safetensors") as path:
            safetensors.torch.save_file({str(i): t for i, t in self.tensors.items()}, str(path))
        write_json(
            folder / "state_offset.json",
            {
                "arch": self.architecture,
                "alpha": self.alpha,
                "mode": self.mode,
                **self.curve.to_json(),
            },
        )


class StateOffset(JobMethod):
    name = "state_offset"
    settings: StateOffsetMethod
    has_alpha = True
    inference_cost: ClassVar[CostClass] = "per-step"

    def label(self) -> str:
        s = self.settings
        parts = ["state_offset"]
        if s.mode == "readout":
            parts.append("readout")
        if s.layers not in (None, "all"):
            parts.append(s.layers if isinstance(s.layers, str) else "layers" + "-".join(map(str, s.layers)))
        if s.n_solutions:
            parts.append(f"n{s.n_solutions}")
        return "_".join(parts)

    def use_only(self) -> tuple[str, ...]:
        return ("alpha", "alpha_grid")

    def alpha(self, layout: Layout) -> AlphaChoice | None:
        return None if self.settings.alpha == "auto" else AlphaChoice(float(self.settings.alpha), "config")

    def _alpha(self) -> float:
        return 1.0 if self.settings.alpha == "auto" else float(self.settings.alpha)

    def joint_key(self) -> dict[str, Any]:
        return {"n_steps": self.settings.n_steps, "mode": self.settings.mode, "optimizer": self.settings.optimizer}

    def job(self, ctx: FitContext, one: TrainingSet) -> FitJob:
        s = self.settings
        if ctx.layout is None:
            raise ArchitectureError(
                f"model {type(ctx.model).__name__}: no recurrent layer whose state an offset could be added to; "
                "use method=lora or prefix"
            )
        if s.mode not in ("accumulate", "readout"):
            raise ConfigError(f"method.mode={s.mode!r}: must be accumulate or readout")
        config = FitConfig(
            n_steps=s.n_steps,
            lr=s.lr,
            l2_lambda=s.l2_lambda,
            grad_clip=s.grad_clip,
            max_length=s.max_length,
            layers=choose_layers(ctx.layout, s.layers),
            optimizer=s.optimizer,
        )
        return FitJob(one.examples, config)

    def through(self, ctx: FitContext) -> Any:
        layout, mode = ctx.layout, self.settings.mode

        @contextlib.contextmanager
        def passing(rows: dict[int, Tensor]) -> Iterator[TrainingCache]:
            with Offsets(layout, rows, mode, private=True):
                yield TrainingCache(layout, {})

        return passing

    def adapter(self, ctx: FitContext, result: FitResult) -> OffsetAdapter:
        curve = Curve.of(result)
        mode = self.settings.mode
        return OffsetAdapter(result.state.tensors, ctx.layout.architecture, self._alpha(), mode, curve)

    def load(self, ctx: FitContext, folder: Path) -> Adapter:
        folder = Path(folder)
        try:
            data = json.loads((folder / "state_offset.json").read_text())
            tensors = safetensors.torch.load_file(str(folder / "offsets.safetensors"))
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise StoreError(
                f"state_offset in {folder}: cannot be read ({error}); delete the folder and fit again"
            ) from error
        adapter = OffsetAdapter(
            {int(i): torch.as_tensor(t) for i, t in tensors.items()},
            data["arch"],
            self._alpha(),
            data["mode"],
            Curve.from_json(data),
        )
        adapter.check(ctx.layout)
        return adapter
