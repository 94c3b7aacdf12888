"""Optimisers, one entry each: for many jobs at once (first dimension = the job), and torch's for the parameters of one."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import torch
from torch import Tensor

from s0.errors import S0Error
from s0.training.parameters import squares


class JobOptimizer:
    """Steps over tensors whose first dimension is the job, with per-job learning rate and gradient clip.

    The clip is over all tensors of a job together, as `clip_grad_norm_` would do for that job alone. `slots` running tensors
    like each parameter belong to `update`.
    """

    slots: ClassVar[int] = 0
    #: the same update for the parameters of a single training
    single: ClassVar[type[torch.optim.Optimizer]]

    def __init__(self, params: list[Tensor], lr: Tensor, clip: Tensor):
        self.params, self.lr, self.clip, self.t = params, lr, clip, 0
        self.memory = [[torch.zeros_like(p) for p in params] for _ in range(self.slots)]

    def update(self, p: Tensor, g: Tensor, lr: Tensor, memory: list[Tensor]) -> None:
        """One parameter's step in place; g is its clipped gradient, `lr` is broadcast to it, self.t counts from 1."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self) -> Tensor:
        """One update; returns the gradient norms before clipping [jobs]. Raises S0Error for a gradient that is not finite."""
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.params]
        home = self.lr.device
        norms = functools.reduce(torch.add, [squares(g).to(home) for g in grads]).sqrt()
        bad = ~torch.isfinite(norms)
        if bool(bad.any()):
            raise S0Error(
                f"training job {int(bad.nonzero()[0])}: gradient is not finite at step {self.t + 1}; lower method.lr"
            )
        factor = torch.where(self.clip > 0, (self.clip / (norms + 1e-6)).clamp(max=1.0), torch.ones_like(norms))
        self.t += 1
        for n, (p, g) in enumerate(zip(self.params, grads, strict=True)):
            view = [-1] + [1] * (p.ndim - 1)
            clipped = g * factor.to(p.device).view(view)
            self.update(p, clipped, self.lr.to(p.device).view(view), [slot[n] for slot in self.memory])
            p.grad = None
        return norms

    def state_dict(self) -> dict[str, Any]:
        return {"t": self.t, "memory": self.memory, "p": [p.detach() for p in self.params]}

    @torch.no_grad()
    def load_state_dict(self, data: dict[str, Any]) -> None:
        self.t = data["t"]
        for mine, theirs in zip([*self.memory, self.params], [*data["memory"], data["p"]], strict=True):
            for a, b in zip(mine, theirs, strict=True):
                a.copy_(b)


class JobAdam(JobOptimizer):
    """torch.optim.Adam's update (betas .9/.999, eps 1e-8; the published optimiser, paper, section 3)."""

    slots = 2
    single = torch.optim.Adam

    def update(self, p: Tensor, g: Tensor, lr: Tensor, memory: list[Tensor]) -> None:
        m, v = memory
        c1, c2 = 1 - 0.9**self.t, 1 - 0.999**self.t
        m.lerp_(g, 0.1)
        v.mul_(0.999).addcmul_(g, g, value=0.001)
        p.sub_(lr * (m / c1) / ((v / c2).sqrt_().add_(1e-8)))


class JobSGD(JobOptimizer):
    """Plain gradient descent: p <- p - lr * g."""

    single = torch.optim.SGD

    def update(self, p: Tensor, g: Tensor, lr: Tensor, memory: list[Tensor]) -> None:
        p.sub_(lr * g)


#: `method.optimizer` -> the optimiser; the names are those of `s0.training.settings.OPTIMIZERS`
OPTIMIZERS: dict[str, type[JobOptimizer]] = {"adam": JobAdam, "sgd": JobSGD}
