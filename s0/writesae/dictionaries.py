"""Dictionaries of rank-1 writes: a write k u' (key side k, value side u) as a sparse sum of atoms.

An atom is a sum of R outer products p r' (rank 1 by default) or, in the flat variants, a dense matrix. Encoders: bilinear,
z_i = sum_r (p^_ir . k)(r^_ir . u) + b_i, from factors of their own, or the decoder's (`tied`); dense, z = We vec(x) + b.

    variant         encoder   decoder          parameters (nf features; dk, dv)
    flat            dense     dense            2 nf dk dv + nf + dk dv
    rank1           dense     p r'             nf dk dv + nf (dk + dv) + nf + dk dv
    bilinear        bilinear  p r'             2 nf (dk + dv) + nf + dk dv
    tied            bilinear  p r' (the same)  nf (dk + dv) + nf + dk dv
    bilinear_flat   bilinear  dense            nf (dk + dv) + nf dk dv + nf + dk dv
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from s0.errors import ConfigError, S0Error
from s0.state.hub import fetch
from s0.storage.files import atomic_path, write_json

VARIANTS = ("bilinear", "rank1", "tied", "flat", "bilinear_flat")
ACTIVATIONS = ("topk", "batchtopk", "jumprelu", "gated")
INPUTS = ("corrected", "additive", "state")


@dataclass(frozen=True)
class DictionaryConfig:
    """What a dictionary is; `cfg.json` of a saved one. `input`: what it was trained on (and is meant for)."""

    key_dim: int
    value_dim: int
    n_features: int = 2048
    k: int = 32
    rank: int = 1
    variant: str = "bilinear"
    activation: str = "topk"
    input: str = "corrected"
    #: initial threshold and half-width of the gradient's window (JumpReLU)
    threshold: float = 1e-4
    bandwidth: float = 1e-3

    def __post_init__(self) -> None:
        for name, choices in (("variant", VARIANTS), ("activation", ACTIVATIONS), ("input", INPUTS)):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(choices)}")
        for name in ("key_dim", "value_dim", "n_features", "k", "rank"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.k > self.n_features:
            raise ConfigError(f"k={self.k}: at most n_features={self.n_features} can be active; lower k")

    @property
    def dense_encoder(self) -> bool:
        return self.variant in ("flat", "rank1")

    @property
    def dense_decoder(self) -> bool:
        return self.variant in ("flat", "bilinear_flat")


class Code(NamedTuple):
    """Active features of N inputs: their numbers [N, m] and coefficients [N, m] (0 where fewer than m are active)."""

    features: Tensor
    value: Tensor

    def dense(self, n_features: int) -> Tensor:
        out = self.value.new_zeros(len(self.value), n_features)
        return out.scatter_add(1, self.features, self.value)


class Step(torch.autograd.Function):
    """1 where z > theta, with a rectangle as derivative for theta (JumpReLU's straight-through estimator)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return (z > theta).to(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, theta = ctx.saved_tensors
        inside = ((z - theta).abs() < ctx.bandwidth / 2).to(z)
        return None, (-inside / ctx.bandwidth * grads[0]).sum(0), None


class WriteSAE(nn.Module):
    """See the module docstring. Inputs are factors k [N, dk] and u [N, dv], or matrices x [N, dk, dv] (`input=state`).

    Inputs are divided by `scale` (mean Frobenius norm of the training inputs) on the way in; `decode` multiplies it back.
    """

    scale: Tensor
    running_threshold: Tensor
    density: Tensor

    def __init__(self, config: DictionaryConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = c = config
        nf, rank, dk, dv = c.n_features, c.rank, c.key_dim, c.value_dim

        def unit(*shape: int) -> nn.Parameter:
            return nn.Parameter(nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1))

        if c.dense_decoder:
            self.W = unit(nf, dk * dv)
        else:
            self.P, self.R = unit(nf, rank, dk), unit(nf, rank, dv)
        if c.dense_encoder:
            start = self.W if c.dense_decoder else torch.einsum("nrk,nrv->nkv", self.P, self.R).flatten(1)
            self.We = nn.Parameter(start.detach().clone())
        elif c.variant != "tied":
            self.Pe, self.Re = unit(nf, rank, dk), unit(nf, rank, dv)
            if not c.dense_decoder:
                self.Pe.data.copy_(self.P.data)
                self.Re.data.copy_(self.R.data)
        self.b_enc = nn.Parameter(torch.zeros(nf))
        self.bias = nn.Parameter(torch.zeros(dk, dv))
        if c.activation == "jumprelu":
            self.log_threshold = nn.Parameter(torch.full((nf,), float(torch.tensor(c.threshold).log())))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("running_threshold", torch.zeros(()))
        self.register_buffer("density", torch.zeros(nf))

    # -- encoder --------------------------------------------------------------------------------------------------

    def encoder_factors(self) -> tuple[Tensor, Tensor]:
        return (self.P, self.R) if self.config.variant == "tied" else (self.Pe, self.Re)

    def scores(self, k: Tensor, u: Tensor) -> Tensor:
        """Pre-activations [N, nf] of scaled factors."""
        if self.config.dense_encoder:
            return torch.einsum("nk,nv->nkv", k, u).flatten(1) @ self.We.T + self.b_enc
        pe, re = self.encoder_factors()
        z = self.b_enc.expand(len(k), -1)
        for i in range(self.config.rank):
            z = z + (k @ pe[:, i].T) * (u @ re[:, i].T)
        return z

    def scores_of_matrices(self, x: Tensor) -> Tensor:
        """Pre-activations [N, nf] of scaled matrices [N, dk, dv]."""
        if self.config.dense_encoder:
            return x.flatten(1) @ self.We.T + self.b_enc
        pe, re = self.encoder_factors()
        z = self.b_enc.expand(len(x), -1)
        for i in range(self.config.rank):
            z = z + ((pe[:, i] @ x) * re[:, i]).sum(-1)
        return z

    def activate(self, z: Tensor) -> Code:
        c = self.config
        if c.activation == "jumprelu":
            value = z.relu() * Step.apply(z, self.log_threshold.exp(), c.bandwidth)
            return Code(torch.arange(c.n_features, device=z.device).expand_as(z), value)
        if c.activation == "batchtopk":
            positive = z.relu()
            if self.training:
                n = min(positive.numel(), c.k * len(z))
                least = positive.detach().flatten().topk(n).values[-1]
                if n:
                    self.running_threshold.lerp_(least, 0.01 if float(self.running_threshold) else 1.0)
                value = positive * (positive >= least)
            else:  # one threshold for every input: what is active does not depend on who else is in the batch
                value = positive * (positive > self.running_threshold)
            return Code(torch.arange(c.n_features, device=z.device).expand_as(z), value)
        top, index = z.topk(c.k, dim=1)
        value = top.relu()
        return Code(index, value * torch.sigmoid(top / 0.1) if c.activation == "gated" else value)

    def encode(self, k: Tensor, u: Tensor) -> Code:
        """Code of writes k u'. Coefficients are in units of `scale`."""
        return self.activate(self.scores(k, u / self.scale))

    def encode_matrices(self, x: Tensor) -> Code:
        return self.activate(self.scores_of_matrices(x / self.scale))

    # -- decoder --------------------------------------------------------------------------------------------------

    def atoms(self, index: Tensor) -> Tensor:
        """Matrices [..., dk, dv] of the atoms with these indices."""
        if self.config.dense_decoder:
            return self.W[index].unflatten(-1, (self.config.key_dim, self.config.value_dim))
        return torch.einsum("...rk,...rv->...kv", self.P[index], self.R[index])

    def decode(self, code: Code) -> Tensor:
        """[N, dk, dv], in the inputs' units."""
        if self.config.dense_decoder:
            flat = code.dense(self.config.n_features) @ self.W
            return (flat.unflatten(1, (self.config.key_dim, self.config.value_dim)) + self.bias) * self.scale
        p = self.P[code.features] * code.value[..., None, None]
        return (torch.einsum("nmrk,nmrv->nkv", p, self.R[code.features]) + self.bias) * self.scale

    @torch.no_grad()
    def normalise(self) -> None:
        """Every atom's factors (or matrix) to norm 1."""
        for t in (self.W,) if self.config.dense_decoder else (self.P, self.R):
            t.div_(t.norm(dim=-1, keepdim=True).clamp_min(1e-12))

    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    # -- files ----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path, metadata: dict[str, Any] | None = None) -> Path:
        """Write cfg.json, sae_weights.safetensors and sparsity.safetensors (log10 of each feature's density)."""
        from safetensors.torch import save_file

        folder = Path(folder)
        tensors = {n: t.detach().cpu().contiguous() for n, t in self.state_dict().items() if n != "density"}
        with atomic_path(folder / "sae_weights.safetensors") as path:
            save_file(tensors, str(path))
        with atomic_path(folder / "sparsity.safetensors") as path:
            save_file({"sparsity": (self.density.cpu() + 1e-10).log10()}, str(path))
        c = self.config
        layout = {
            "architecture": "writesae",
            "d_in": c.key_dim * c.value_dim,
            "d_sae": c.n_features,
            "dtype": "float32",
        }
        write_json(folder / "cfg.json", {**layout, **asdict(c), "metadata": metadata or {}})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> WriteSAE:
        """A saved dictionary, or a published checkpoint (`best.pt` / `final.pt`, or the file itself). Raises S0Error."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        for file in (folder, folder / "best.pt", folder / "final.pt"):
            if file.suffix == ".pt" and file.is_file():
                return _from_published(file)
        try:
            data = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
            fields = DictionaryConfig.__dataclass_fields__
            sae = cls(DictionaryConfig(**{n: v for n, v in data.items() if n in fields}))
            tensors = load_file(str(folder / "sae_weights.safetensors"))
            sparsity = folder / "sparsity.safetensors"
            density = 10.0 ** load_file(str(sparsity))["sparsity"] if sparsity.exists() else sae.density
            sae.load_state_dict({**tensors, "density": density})
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            first = str(error).splitlines()[0]
            raise S0Error(
                f"{folder}: not a saved dictionary ({first}); give a folder with cfg.json and sae_weights.safetensors"
            ) from error
        return sae.eval()

    @classmethod
    def from_pretrained(cls, repo_or_dir: str | Path, revision: str | None = None, api: Any = None) -> WriteSAE:
        """Load from a folder or a Hub repository ("user/name")."""
        return cls.load(fetch(repo_or_dir, revision=revision, api=api))


#: names in the public release -> names here, by variant (encoder.* of the dense encoders apart)
_PUBLISHED = {
    "V_dec": "P",
    "W_dec": "R",
    "V": "P",
    "W": "R",
    "V_enc": "Pe",
    "W_enc": "Re",
    "b_enc": "b_enc",
    "bias": "bias",
}


def _from_published(file: Path) -> WriteSAE:
    """A `best.pt` of the public release: {model_state_dict, config, ...}; only tensors are read, no code is run."""
    import pickle

    try:
        data = torch.load(file, map_location="cpu", weights_only=True)
        raw, settings = dict(data["model_state_dict"]), dict(data.get("config", {}))
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise S0Error(
            f"{file}: not a published dictionary ({type(error).__name__}); it must hold model_state_dict"
        ) from error
    tensors = {}
    for name, t in raw.items():
        if name in _PUBLISHED:
            short = _PUBLISHED[name]
            tensors[short] = t.float()[:, None] if short in ("P", "R", "Pe", "Re") and t.ndim == 2 else t.float()
        elif name == "encoder.weight":
            tensors["We"] = t.float()
        elif name == "encoder.bias":
            tensors["b_enc"] = t.float()
    if "P" not in tensors or "R" not in tensors:
        raise S0Error(
            f"{file}: holds {', '.join(sorted(raw))}; a rank-1 or bilinear dictionary has V, W or V_dec, W_dec"
        )
    variant = "bilinear" if "Pe" in tensors else "rank1" if "We" in tensors else "tied"
    nf, rank, dk = tensors["P"].shape
    config = DictionaryConfig(dk, tensors["R"].shape[-1], nf, int(settings.get("k", 32)), rank, variant, input="state")
    sae = WriteSAE(config)
    tensors["bias"] = tensors.get("bias", torch.zeros(dk, config.value_dim)).view(dk, config.value_dim)
    missing = sae.load_state_dict(tensors, strict=False).missing_keys
    wrong = sorted(set(missing) - {"scale", "running_threshold", "density", "b_enc"})
    if wrong:
        raise S0Error(f"{file}: lacks {', '.join(wrong)}; the checkpoint is not whole")
    return sae.eval()
