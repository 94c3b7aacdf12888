"""The learned tensors of all jobs of a fit."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from s0.errors import ConfigError
from s0.state.families import Layout, device_of_layer
from s0.state.initial import InitialState
from s0.training.jobs import FitJob


def squares(x: Tensor) -> Tensor:
    """Squared norm per job [jobs] of x [jobs, ...]; job by job, because how a sum is split depends on how many there are
    (sums over layers are taken one after another for the same reason)."""
    return torch.stack([one.square().sum() for one in x])


class StateParameters:
    """The learned tensors of all jobs: per layer [jobs, *shape], or factors [jobs, rank, heads, k] and [.., v]."""

    def __init__(self, layout: Layout, jobs: list[FitJob]):
        self.layout, self.jobs = layout, jobs
        self.rank = jobs[0].config.rank
        if any(j.config.rank != self.rank for j in jobs):
            raise ConfigError("method.rank: jobs fused into one training must have the same rank; fit them separately")
        wanted: set[int] = set()
        for job in jobs:
            chosen = layout.layers if job.config.layers is None else job.config.layers
            unknown = sorted(set(chosen) - set(layout.layers))
            if unknown or not chosen:
                raise ConfigError(
                    f"method.layers={list(chosen)}: {unknown or 'empty'}: choose among the recurrent layers {list(layout.layers)}"
                )
            wanted |= set(chosen)
        self.layers = tuple(sorted(wanted))
        self.params: dict[int, list[Tensor]] = {}
        self.masks: dict[int, Tensor] = {}
        for i in self.layers:
            device = device_of_layer(layout.mixers[i])
            self.masks[i] = torch.tensor(
                [float(j.config.layers is None or i in j.config.layers) for j in jobs], device=device
            )
            self.params[i] = [t.to(device).requires_grad_() for t in self._initial(i)]

    def _initial(self, layer: int) -> list[Tensor]:
        shape = self.layout.shapes[layer]
        start = torch.zeros(len(self.jobs), *shape)
        for n, job in enumerate(self.jobs):
            if job.init is not None:
                job.init.check(self.layout)
                if layer in job.init.tensors:
                    start[n] = job.init.tensors[layer]
        if not self.rank:
            return [start]
        if any(j.init is not None for j in self.jobs):
            raise ConfigError("method.rank: a low-rank state starts from zero; drop method.init or set method.rank=0")
        heads, k, v = shape
        left = torch.stack(
            [
                torch.randn(
                    self.rank, heads, k, generator=torch.Generator().manual_seed(1_000_003 * j.config.seed + layer)
                )
                / math.sqrt(k)
                for j in self.jobs
            ]
        )
        return [left, torch.zeros(len(self.jobs), self.rank, heads, v)]

    def full(self, layer: int) -> Tensor:
        """[jobs, *shape], differentiable; zero for jobs that do not learn this layer."""
        p = self.params[layer]
        s = p[0] if not self.rank else torch.einsum("jrhk,jrhv->jhkv", p[0], p[1])
        mask = self.masks[layer]
        return s if bool((mask == 1).all()) else s * mask.view(-1, *[1] * (s.ndim - 1))

    def used(self, layer: int) -> Tensor:
        """[jobs, *shape] as the model sees it in training."""
        s = self.full(layer)
        if not any(j.config.alpha_inside for j in self.jobs):
            return s
        factors = torch.tensor([j.config.alpha if j.config.alpha_inside else 1.0 for j in self.jobs], device=s.device)
        normal = torch.tensor([j.config.alpha_inside and j.config.normalize for j in self.jobs], device=s.device)
        norms = torch.stack([one.norm() for one in s])
        # a zero state has no direction yet: train it unscaled until the first update gives it one
        divisor = torch.where(normal & (norms > 0), norms, torch.ones_like(norms))
        return s * (factors / divisor).view(-1, *[1] * (s.ndim - 1))

    def l2(self) -> Tensor:
        """Squared norm over layers per job [jobs]."""
        home = self.masks[self.layers[0]].device
        return functools.reduce(torch.add, [squares(self.full(i)).to(home) for i in self.layers])

    def flat(self) -> list[Tensor]:
        return [p for i in self.layers for p in self.params[i]]

    def state(self, n: int) -> InitialState:
        config = self.jobs[n].config
        chosen = [i for i in self.layers if config.layers is None or i in config.layers]
        tensors = {i: self.full(i)[n].detach() for i in chosen}
        return InitialState(tensors, self.layout.architecture, alpha=config.alpha, normalize=config.normalize)
