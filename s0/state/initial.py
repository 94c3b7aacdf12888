"""InitialState: the tensors the recurrent layers start from, with what is needed to apply, save and mix them.

Saved form (the published one): `states.safetensors` (key = layer index as a string, fp32), `config.json` (the S0Config
fields, among them alpha and normalize), `meta.json` (`arch`, `recurrent_layers`, `state_shape`). Older states have
`states.pt` instead of the safetensors file; they are read with `weights_only=True`.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s0.errors import ArchitectureError, S0Error
from s0.state.families import Layout
from s0.state.hub import fetch, push
from s0.state.recurrences import DEFAULT_ALPHA
from s0.storage.files import atomic_path, write_json

FORMAT_VERSION = 1


@dataclass(frozen=True)
class InitialState:
    """One learned state.

    tensors       layer index -> fp32 tensor of the layer's state shape, without batch ([heads, key dim, value dim] for
                  GatedDeltaNet, [heads, head dim, d_state] for Mamba-2), before alpha
    architecture  "gated_delta_net", "mamba2", ... (see s0.state.families)
    alpha         factor at use time
    normalize     if set, each layer is divided by its Frobenius norm before alpha (paper: optional normalisation)
    config        further fields kept in config.json
    metadata      further fields kept in meta.json
    """

    tensors: dict[int, Tensor]
    architecture: str
    alpha: float = 1.0
    normalize: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tensors:
            raise S0Error("InitialState.tensors={}: a state needs at least one layer")
        fixed = {
            int(i): t.detach().to(device="cpu", dtype=torch.float32, copy=True).contiguous()
            for i, t in sorted(self.tensors.items(), key=lambda kv: int(kv[0]))
        }
        for i, t in fixed.items():
            if not torch.isfinite(t).all():
                raise S0Error(f"InitialState layer {i}: holds NaN or infinity; retrain with a smaller lr")
        object.__setattr__(self, "tensors", fixed)

    # -- construction ---------------------------------------------------------------------------------------------

    @classmethod
    def zeros(cls, layout: Layout, **kw: Any) -> InitialState:
        return cls({i: torch.zeros(layout.shapes[i]) for i in layout.layers}, layout.architecture, **kw)

    @classmethod
    def random(cls, layout: Layout, norm: float | Mapping[int, float], seed: int, **kw: Any) -> InitialState:
        """Gaussian direction with a given Frobenius norm per layer (all layers, or those of a mapping): the same-norm
        control of a learned state."""
        g = torch.Generator().manual_seed(seed)
        tensors = {}
        for i in sorted(norm) if isinstance(norm, Mapping) else layout.layers:
            t = torch.randn(layout.shapes[i], generator=g)
            target = norm[i] if isinstance(norm, Mapping) else norm
            tensors[i] = t * (float(target) / t.norm())
        return cls(tensors, layout.architecture, **kw)

    # -- use ------------------------------------------------------------------------------------------------------

    def effective(self) -> dict[int, Tensor]:
        """layer -> fp32 tensor as the model sees it: alpha * S, or alpha * S / ||S|| with `normalize`."""
        out = {}
        for i, t in self.tensors.items():
            if self.normalize:
                n = t.norm()
                t = t / n if n > 0 else t
            out[i] = t * self.alpha
        return out

    def norms(self) -> dict[int, float]:
        """layer -> Frobenius norm before alpha."""
        return {i: float(t.norm()) for i, t in self.tensors.items()}

    def scaled(self, factor: float) -> InitialState:
        """The same state with alpha multiplied by `factor`."""
        return self.replace(alpha=self.alpha * factor)

    def replace(self, **changes: Any) -> InitialState:
        values = {k: getattr(self, k) for k in ("tensors", "architecture", "alpha", "normalize", "config", "metadata")}
        return InitialState(**{**values, **changes})

    @staticmethod
    def mix(states: Sequence[InitialState], weights: Sequence[float]) -> InitialState:
        """Linear combination of effective states; layers a state lacks count as zero. The result has alpha 1."""
        if not states or len(states) != len(weights):
            raise S0Error(f"mix: {len(states)} states and {len(weights)} weights; give one weight per state")
        kinds = {s.architecture for s in states}
        if len(kinds) > 1:
            raise ArchitectureError(
                f"mix: states of different architectures ({', '.join(sorted(kinds))}) cannot be mixed"
            )
        total: dict[int, Tensor] = {}
        for state, weight in zip(states, weights, strict=True):
            for i, t in state.effective().items():
                if i in total and total[i].shape != t.shape:
                    raise ArchitectureError(f"mix: layer {i} has shapes {tuple(total[i].shape)} and {tuple(t.shape)}")
                total[i] = total.get(i, torch.zeros_like(t)) + weight * t
        return InitialState(total, states[0].architecture, alpha=1.0)

    def check(self, layout: Layout) -> None:
        """Raise ArchitectureError unless this state fits the model described by `layout` (layers may be a subset)."""
        if self.architecture != layout.architecture:
            raise ArchitectureError(
                f"state architecture {self.architecture!r} does not fit the model's {layout.architecture!r}; "
                "load a state trained for this kind of model"
            )
        extra = sorted(set(self.tensors) - set(layout.layers))
        if extra:
            raise ArchitectureError(
                f"state layers {extra} are not recurrent layers of the model (its are {list(layout.layers)}); "
                "load a state trained for this model"
            )
        for i, t in self.tensors.items():
            if tuple(t.shape) != layout.shapes[i]:
                raise ArchitectureError(
                    f"state layer {i} has shape {tuple(t.shape)}, the model's is {layout.shapes[i]}; "
                    "load a state trained for this model size"
                )

    # -- files ----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write the three published files into `folder` (each atomically). Raises StoreError."""
        from safetensors.torch import save_file

        folder = Path(folder)
        shapes = {i: list(t.shape) for i, t in self.tensors.items()}
        first = next(iter(shapes.values()))
        meta = {
            **self.metadata,
            "arch": self.architecture,
            "recurrent_layers": list(self.tensors),
            "state_shape": first
            if all(s == first for s in shapes.values())
            else {str(i): s for i, s in shapes.items()},
            "format_version": FORMAT_VERSION,
        }
        with atomic_path(folder / "states.safetensors") as temporary:
            save_file({str(i): t for i, t in self.tensors.items()}, str(temporary))
        write_json(folder / "config.json", {**self.config, "alpha": self.alpha, "normalize": self.normalize})
        write_json(folder / "meta.json", meta)
        return folder

    @classmethod
    def load(cls, folder: str | Path, layout: Layout | None = None) -> InitialState:
        """Read a saved state; with `layout`, check that it fits the model. `alpha` null in config.json means the
        architecture's default.

        Raises ArchitectureError (does not fit), S0Error (missing or contradictory files).
        """
        folder = Path(folder)
        meta = read_json(folder / "meta.json")
        config = read_json(folder / "config.json")
        raw = _read_tensors(folder)
        try:
            tensors = {int(k): torch.as_tensor(v) for k, v in raw.items()}
        except (ValueError, AttributeError) as error:
            raise S0Error(f"{folder}: keys of the state file must be layer indices ({error})") from error
        architecture = meta.get("arch")
        if not isinstance(architecture, str):
            raise S0Error(f"{folder}/meta.json: arch={architecture!r} must name the architecture")
        listed = meta.get("recurrent_layers")
        if listed is not None and sorted(map(int, listed)) != sorted(tensors):
            raise ArchitectureError(
                f"{folder}: meta.json lists layers {listed}, the state file holds {sorted(tensors)}; the folder mixes two states"
            )
        shape = meta.get("state_shape")
        if isinstance(shape, list):
            wrong = [i for i, t in tensors.items() if list(t.shape) != shape]
            if wrong:
                raise ArchitectureError(
                    f"{folder}: meta.json says shape {shape}, layer {wrong[0]} holds {list(tensors[wrong[0]].shape)}; "
                    "the folder mixes two states"
                )
        alpha = config.pop("alpha", None)
        if alpha is None:
            alpha = layout.family.default_alpha if layout else DEFAULT_ALPHA.get(architecture, 1.0)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise S0Error(f"{folder}/config.json: alpha={alpha!r} must be a finite number, or null for the default")
        normalize = bool(config.pop("normalize", False))
        kept = {k: v for k, v in meta.items() if k not in ("arch", "recurrent_layers", "state_shape", "format_version")}
        state = cls(tensors, architecture, float(alpha), normalize, config, kept)
        if layout is not None:
            state.check(layout)
        return state

    # -- Hub ------------------------------------------------------------------------------------------------------

    def push_to_hub(self, repo_id: str, base_model: str | None = None, **options: Any) -> str:
        """Upload this state with a model card (options: `s0.state.hub.push`). Returns the commit's address."""
        return push(self, repo_id, base_model, **options)

    @classmethod
    def from_pretrained(
        cls, repo_or_dir: str | Path, layout: Layout | None = None, revision: str | None = None, api: Any = None
    ) -> InitialState:
        """Load a state from a folder or a Hub repository ("user/name"). Raises what `load` and `s0.state.hub.fetch` raise."""
        return cls.load(fetch(repo_or_dir, revision=revision, api=api), layout)


def _read_tensors(folder: Path) -> dict[Any, Any]:
    """Tensors of the state file, safetensors first; code in an older pickle is never run (`weights_only`)."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for path in (folder / "states.safetensors", folder / "states.pt"):
        if not path.exists():
            continue
        try:
            if path.suffix == ".pt":
                return dict(torch.load(path, map_location="cpu", weights_only=True))
            return load_file(str(path))
        except (
            SafetensorError,
            pickle.UnpicklingError,
            RuntimeError,
            EOFError,
            OSError,
            TypeError,
            ValueError,
        ) as error:
            raise S0Error(
                f"{path}: not a readable state file ({type(error).__name__}); it is torn or holds more than tensors: "
                "fetch or save it again"
            ) from error
    raise S0Error(f"{folder}: no states.safetensors (or states.pt); give a folder written by save()")


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise S0Error(f"{path}: cannot be read ({error}); give a folder written by save()") from error
    if not isinstance(value, dict):
        raise S0Error(f"{path}: must hold a JSON object")
    return value
