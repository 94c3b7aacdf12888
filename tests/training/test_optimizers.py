"""Each optimiser for many jobs at once is torch's for every job alone, clipping included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from s0.errors import ConfigError, S0Error
from s0.training.fit import fit_states
from s0.training.jobs import FitConfig, FitJob
from s0.training.optimizers import OPTIMIZERS
from s0.training.settings import OPTIMIZERS as NAMES

JOBS, STEPS = 3, 6
LR = torch.tensor([0.1, 0.02, 0.5])
CLIP = torch.tensor([0.0, 0.3, 2.0])


def test_the_names_are_those_a_config_may_give() -> None:
    assert tuple(OPTIMIZERS) == NAMES


def gradients(step: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(step)
    return [torch.randn(JOBS, 2, 3, generator=g), torch.randn(JOBS, 4, generator=g)]


def start() -> list[torch.Tensor]:
    return [t.clone() for t in gradients(99)]


@pytest.mark.parametrize("name", NAMES)
def test_jobs_at_once_are_torchs_optimiser_job_by_job(name: str) -> None:
    together = start()
    optimizer = OPTIMIZERS[name](together, LR, CLIP)
    norms = []
    for step in range(STEPS):
        for p, g in zip(together, gradients(step), strict=True):
            p.grad = g
        norms.append(optimizer.step())
    for job in range(JOBS):
        alone = [nn.Parameter(t[job].clone()) for t in start()]
        single = OPTIMIZERS[name].single(alone, lr=float(LR[job]))  # type: ignore[call-arg]
        for step in range(STEPS):
            for p, g in zip(alone, gradients(step), strict=True):
                p.grad = g[job].clone()
            norm = nn.utils.clip_grad_norm_(alone, float(CLIP[job]) or float("inf"))
            torch.testing.assert_close(norms[step][job], norm)
            single.step()
        for p, q in zip(together, alone, strict=True):
            torch.testing.assert_close(p[job], q.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_goes_on_bit_for_bit(name: str) -> None:
    whole, halves = start(), start()
    first, one = OPTIMIZERS[name](whole, LR, CLIP), OPTIMIZERS[name](halves, LR, CLIP)
    for step in range(STEPS):
        if step == 3:
            saved = {
                k: ([[t.clone() for t in s] for s in v] if k == "memory" else v) for k, v in one.state_dict().items()
            }
            halves = [t.clone() for t in saved["p"]]
            one = OPTIMIZERS[name](halves, LR, CLIP)
            one.load_state_dict(saved)
        for params, optimizer in ((whole, first), (halves, one)):
            for p, g in zip(params, gradients(step), strict=True):
                p.grad = g
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_that_is_not_finite_names_the_job(name: str) -> None:
    params = start()
    for p, g in zip(params, gradients(0), strict=True):
        p.grad = g
    params[1].grad[2, 0] = float("nan")  # type: ignore[index]
    with pytest.raises(S0Error, match="training job 2: gradient is not finite at step 1"):
        OPTIMIZERS[name](params, LR, CLIP).step()


def test_jobs_of_different_optimisers_are_not_fused() -> None:
    from test_fit import some_examples

    from s0.state.families import describe
    from s0.state.random_models import build

    model = build("qwen3_5")
    jobs = [FitJob(some_examples(1, 2, 90), FitConfig(optimizer=name)) for name in NAMES]
    with pytest.raises(ConfigError, match=r"method\.optimizer: jobs fused"):
        fit_states(model, describe(model), jobs)
