"""Training a dictionary: on write factors with the factored loss, or on sampled states; dead features are revived.

Everything is drawn from one seed, so a resumed training goes on bit for bit (generator and optimiser are in the snapshot).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from s0.errors import ConfigError
from s0.writesae.dictionaries import Code, DictionaryConfig, Step, WriteSAE
from s0.writesae.loss import dense_error, revival_error, write_error


@dataclass(frozen=True)
class TrainSettings:
    """steps of `batch` inputs; lr falls as a cosine to lr / 10 after `warmup` steps. A feature silent for `dead_after` inputs
    is dead: it takes part in the revival loss (weight `revival`) and is re-drawn from the residual every `resample` steps.
    sparsity: weight of L0 (JumpReLU). initialise: "data" (atoms are writes) or "random"."""

    steps: int = 600
    batch: int = 512
    lr: float = 3e-3
    warmup: int = 50
    revival: float = 1 / 32
    revival_k: int = 8
    dead_after: int = 20_000
    resample: int = 200
    sparsity: float = 1e-5
    initialise: str = "data"
    seed: int = 0


@dataclass
class Trained:
    sae: WriteSAE
    losses: list[float] = field(default_factory=list)
    revived: int = 0


def _input(sae: WriteSAE, data: tuple[Tensor, ...], rows: Tensor) -> tuple[Tensor, ...]:
    """Scaled inputs: (k, u) or (states,)."""
    if len(data) == 1:
        return (data[0][rows] / sae.scale,)
    return data[0][rows], data[1][rows] / sae.scale


def _scores(sae: WriteSAE, parts: tuple[Tensor, ...]) -> Tensor:
    return sae.scores(parts[0], parts[1]) if len(parts) == 2 else sae.scores_of_matrices(parts[0])


def _error(sae: WriteSAE, parts: tuple[Tensor, ...], code: Code) -> Tensor:
    return write_error(sae, parts[0], parts[1], code) if len(parts) == 2 else dense_error(sae, parts[0], code)


@torch.no_grad()
def _from_data(sae: WriteSAE, features: Tensor, parts: tuple[Tensor, ...], encoder: bool = True) -> None:
    """Set features to (the top singular pair of) inputs."""
    if len(parts) == 1:
        left, _, right = torch.linalg.svd(parts[0], full_matrices=False)
        k, u = left[:, :, 0], right[:, 0]
    else:
        k, u = (torch.nn.functional.normalize(x, dim=1) for x in parts)
    c = sae.config
    dense = torch.einsum("nk,nv->nkv", k, u).flatten(1)
    if c.dense_decoder:
        sae.W[features] = dense
    else:
        noise = 1e-2 / math.sqrt(c.key_dim)
        for t, one in ((sae.P, k), (sae.R, u)):  # further ranks start as faint copies
            t[features] = one[:, None] + noise * torch.arange(c.rank)[:, None] * torch.roll(one, 1, 1)[:, None]
    if encoder and c.dense_encoder:
        sae.We[features] = dense
    elif encoder and c.variant != "tied":
        sae.Pe[features], sae.Re[features] = k[:, None], u[:, None] / c.rank
    sae.b_enc[features] = 0


def train(
    config: DictionaryConfig,
    data: tuple[Tensor, ...],
    settings: TrainSettings,
    snapshot: dict[str, Any] | None = None,
    on_step: Callable[[int, Callable[[], dict[str, Any]], float], None] | None = None,
) -> Trained:
    """Learn a dictionary on (k [N, dk], u [N, dv]) or (states [N, dk, dv],).

    on_step(step, make_snapshot, loss) after every step; `snapshot` is what make_snapshot returned before a kill.
    """
    if not len(data[0]):
        raise ConfigError("no inputs to train on; capture more sequences")
    s = settings
    generator = torch.Generator().manual_seed(s.seed)
    sae = WriteSAE(config, generator)
    norms = data[0].flatten(1).norm(dim=1) * (data[1].norm(dim=1) if len(data) == 2 else 1.0)
    sae.scale.fill_(norms.mean().clamp_min(1e-12))
    if s.initialise == "data":
        # in proportion to size, so that near-empty writes do not become atoms
        weights = norms.double().clamp_min(1e-12)
        few = config.n_features > int((norms > 0).sum())
        rows = torch.multinomial(weights, config.n_features, replacement=few, generator=generator)
        _from_data(sae, torch.arange(config.n_features), _input(sae, data, rows))
    sae.normalise()
    optimiser = torch.optim.Adam(sae.parameters(), lr=s.lr)
    silent_for = torch.zeros(config.n_features, dtype=torch.long)
    done = Trained(sae)
    first = 0
    if snapshot is not None:
        sae.load_state_dict(snapshot["sae"])
        optimiser.load_state_dict(snapshot["optimiser"])
        generator.set_state(snapshot["generator"])
        silent_for, first = snapshot["silent_for"].clone(), snapshot["step"]
        done.losses, done.revived = list(snapshot["losses"]), snapshot["revived"]
    sae.train()
    for step in range(first, s.steps):
        warm = min(1.0, (step + 1) / max(1, s.warmup))
        cosine = 0.55 + 0.45 * math.cos(math.pi * step / max(1, s.steps))
        for group in optimiser.param_groups:
            group["lr"] = s.lr * warm * cosine
        rows = torch.randint(len(data[0]), (s.batch,), generator=generator)
        parts = _input(sae, data, rows)
        code = sae.activate(_scores(sae, parts))
        error = _error(sae, parts, code)
        loss = error.mean()
        if config.activation == "jumprelu":
            loss = loss + s.sparsity * _l0(sae, parts)
        dead = (silent_for > s.dead_after).nonzero()[:, 0]
        if len(dead) and s.revival and len(parts) == 2 and not config.dense_decoder:
            loss = loss + s.revival * revival_error(sae, parts[0], parts[1], code, dead[:256], s.revival_k)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        sae.normalise()
        with torch.no_grad():
            fired = torch.zeros(config.n_features, dtype=torch.bool)
            fired[code.features[code.value > 0]] = True
            silent_for = torch.where(fired, 0, silent_for + s.batch)
            if s.resample and (step + 1) % s.resample == 0 and step + 1 < s.steps:
                done.revived += _resample(sae, optimiser, silent_for, parts, error.detach(), s, generator)
        done.losses.append(float(error.detach().mean()))
        if on_step is not None:

            def make(step: int = step, silent_for: Tensor = silent_for) -> dict[str, Any]:
                return {
                    "sae": sae.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "generator": generator.get_state(),
                    "silent_for": silent_for,
                    "step": step + 1,
                    "losses": done.losses,
                    "revived": done.revived,
                }

            on_step(step + 1, make, done.losses[-1])
    sae.eval()
    return done


def _l0(sae: WriteSAE, parts: tuple[Tensor, ...]) -> Tensor:
    """Mean number of active features, differentiable in the thresholds alone."""
    with torch.no_grad():
        z = _scores(sae, parts)
    return Step.apply(z, sae.log_threshold.exp(), sae.config.bandwidth).sum(1).mean()


def _resample(
    sae: WriteSAE,
    optimiser: torch.optim.Adam,
    silent_for: Tensor,
    parts: tuple[Tensor, ...],
    error: Tensor,
    s: TrainSettings,
    generator: torch.Generator,
) -> int:
    """Re-draw dead features from inputs that are reconstructed badly; their optimiser moments are cleared."""
    dead = (silent_for > s.dead_after).nonzero()[:, 0][: len(error)]
    if not len(dead):
        return 0
    rows = torch.multinomial(error.double().clamp_min(1e-12), len(dead), generator=generator)
    _from_data(sae, dead, tuple(x[rows] for x in parts))
    sae.normalise()
    for parameter in sae.parameters():
        if parameter.shape[:1] == (sae.config.n_features,) and parameter in optimiser.state:
            for moment in ("exp_avg", "exp_avg_sq"):
                optimiser.state[parameter][moment][dead] = 0
    silent_for[dead] = 0
    return len(dead)


@torch.no_grad()
def evaluate(sae: WriteSAE, data: tuple[Tensor, ...], batch: int = 2048) -> dict[str, float]:
    """fvu: squared error over squared distance from the mean; l0: mean active features; alive: share of features that fire;
    max_density: share of inputs on which the most frequent one does. Leaves `sae.density` set."""
    error = total = active = 0.0
    counts = torch.zeros(sae.config.n_features)
    n = len(data[0])
    matrices = len(data) == 1
    mean = data[0].mean(0) if matrices else data[0].T @ data[1] / n
    for at in range(0, n, batch):
        rows = torch.arange(at, min(n, at + batch))
        parts = _input(sae, data, rows)
        code = sae.activate(_scores(sae, parts))
        e = _error(sae, parts, code)
        error += float(e.clamp_min(0).sum() * sae.scale**2)
        raw = [x[rows] for x in data]
        if matrices:
            total += float((raw[0] - mean).square().sum())
        else:
            k, u = raw
            total += float((k.square().sum(1) * u.square().sum(1) - 2 * ((k @ mean) * u).sum(1)).sum())
            total += float(len(rows) * mean.square().sum())
        on = code.value > 0
        active += float(on.sum())
        counts += torch.bincount(code.features[on], minlength=sae.config.n_features)
    sae.density = counts / n
    return {
        "fvu": error / max(total, 1e-12),
        "l0": active / n,
        "alive": float((counts > 0).float().mean()),
        "max_density": float(sae.density.max()),
    }
