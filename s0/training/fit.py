"""Fused training: many states at once, each row of the batch carrying the state of its own job.

A job is one (seed, hyper-parameters, examples) whose state is learned independently of all others. Because the state is
per row, jobs share every forward pass; gradients stay in their rows, so the result equals separate training (checked to
1e-5). Loss per job (paper, section 3): completion-only cross entropy, mean over tokens of a solution, mean over
solutions, plus lambda * sum over layers of ||S||^2; Adam; gradient-norm clip over all layers of a job together.

Batches are right-padded: with a causal model nothing at or before a completion's last token can see a pad, so training
is exact for every family without touching gates. The shared prompt is recomputed per job on purpose: its hidden states
depend on the job's state, so there is no exact reuse across jobs, and within a job each problem occurs once.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from s0.errors import ConfigError, S0Error
from s0.kernels.routing import cpu_kernels
from s0.runtime.parallel import fewer_threads, parallel_passes, run_parallel
from s0.state.cache import TrainingCache
from s0.state.families import Layout
from s0.training.batches import Batch, make_batches
from s0.training.jobs import FitJob, FitResult
from s0.training.optimizers import OPTIMIZERS
from s0.training.parameters import StateParameters
from s0.training.passes import frozen, logits_at, recompute_layers, token_losses


def _training_cache(layout: Layout, rows: dict[int, Tensor]) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext(TrainingCache(layout, rows))


def one_pass(
    model: nn.Module,
    layout: Layout,
    choose: Callable[[Tensor, Tensor], None],
    states: dict[int, Tensor],
    through: Callable[[dict[int, Tensor]], contextlib.AbstractContextManager[Any]],
    batch: Batch,
) -> tuple[Tensor, dict[int, Tensor]]:
    """Forward and backward of one micro-batch from `states` (layer -> [jobs, *shape]): weighted losses per completion token
    [T] and gradients per row (layer -> [B, *shape])."""
    with torch.enable_grad(), cpu_kernels(layout):
        rows = {i: s.index_select(0, batch.jobs.to(s.device)).requires_grad_() for i, s in states.items()}
        with through(rows) as cache:
            each = token_losses(model, choose, batch, cache, layout.cache_argument) * batch.weights
            each.sum().backward()
    return each.detach(), {i: r.grad for i, r in rows.items() if r.grad is not None}


def fit_states(
    model: nn.Module,
    layout: Layout,
    jobs: list[FitJob],
    *,
    token_budget: int | None = None,
    checkpointing: bool = False,
    mix: bool | None = None,
    pad_id: int = 0,
    progress: Callable[[int, int, list[float]], None] | None = None,
    resume: dict[str, Any] | None = None,
    on_step: Callable[[int, Callable[[], dict[str, Any]]], None] | None = None,
    through: Callable[[dict[int, Tensor]], contextlib.AbstractContextManager[Any]] | None = None,
) -> list[FitResult]:
    """Learn one state per job, all jobs together (jobs must share n_steps and rank). One fit at a time on a model: its
    parameters are frozen and its output head is hooked meanwhile (`StateBank.fit` sees to that).

    token_budget     padded tokens per forward pass: the memory knob (gradients are accumulated over micro-batches; a
                     small model on CPU runs one pass per thread at a time, see `s0.runtime.parallel`)
    checkpointing    recompute activations in the backward pass (one decoder layer at a time)
    mix              rows of several jobs in one micro-batch; by default only off the CPU. On CPU a job's own micro-batches fill
                     the cores, and then its bytes do not depend on the jobs it is trained with
    progress         called after every step with (step, n_steps, cross entropy per job)
    resume/on_step   a snapshot of an interrupted run, and a hook called after every step with (step, make_snapshot)
    through          rows (layer -> [batch, *shape]) -> context yielding the cache of one forward and backward pass, entered
                     in the thread of that pass; by default the rows are the states the batch starts from

    Raises ConfigError for contradictory jobs, S0Error for examples that do not fit or gradients that are not finite.
    """
    if not jobs:
        return []
    n_steps = jobs[0].config.n_steps
    if any(j.config.n_steps != n_steps for j in jobs):
        raise ConfigError("method.n_steps: jobs fused into one training must have the same number of steps")
    if len({j.config.optimizer for j in jobs}) > 1:
        raise ConfigError(
            "method.optimizer: jobs fused into one training must have the same optimizer; fit them separately"
        )
    if any(not j.examples for j in jobs):
        raise S0Error("training: a job has no examples; verify more samples first")
    device = next(model.parameters()).device
    params = StateParameters(layout, jobs)
    home = params.masks[params.layers[0]].device
    optimizer = OPTIMIZERS[jobs[0].config.optimizer](
        params.flat(),
        torch.tensor([j.config.lr for j in jobs], device=home),
        torch.tensor([j.config.grad_clip for j in jobs], device=home),
    )
    lambdas = torch.tensor([j.config.l2_lambda for j in jobs], device=home)
    losses: list[list[float]] = [[] for _ in jobs]
    objectives: list[list[float]] = [[] for _ in jobs]
    norms: list[list[float]] = [[] for _ in jobs]
    if resume is not None:
        optimizer.load_state_dict(resume["optimizer"])
        losses, objectives, norms = ([list(x) for x in resume[k]] for k in ("losses", "objectives", "grad_norms"))
    batches = make_batches(jobs, device, token_budget, pad_id, device.type != "cpu" if mix is None else mix)
    plain = functools.partial(_training_cache, layout)
    n_parallel = parallel_passes(model)

    def snapshot() -> dict[str, Any]:
        return {"optimizer": optimizer.state_dict(), "losses": losses, "objectives": objectives, "grad_norms": norms}

    with contextlib.ExitStack() as stack, torch.enable_grad():
        stack.enter_context(frozen(model))
        choose = stack.enter_context(logits_at(model))
        if checkpointing:
            stack.enter_context(recompute_layers(layout.text_model))
        for step in range(optimizer.t, n_steps):
            total = torch.zeros(len(jobs), device=home)
            used = {i: params.used(i) for i in params.layers}
            now = {i: s.detach() for i, s in used.items()}
            grads = {i: torch.zeros_like(s) for i, s in now.items()}
            one = functools.partial(one_pass, model, layout, choose, now, through or plain)
            # closed by hand: an interrupt in this loop must not leave passes running behind it
            with contextlib.closing(run_parallel(one, batches, n_parallel)) as passes:
                for batch, (each, row_grads) in zip(batches, passes, strict=True):
                    total.index_add_(0, batch.token_jobs.to(home), each.to(home))
                    for i, g in row_grads.items():
                        grads[i].index_add_(0, batch.jobs.to(g.device), g)
            # what is left is short, and its sums must not be split by the number of threads
            with fewer_threads(1) if device.type == "cpu" else contextlib.nullcontext():
                torch.autograd.backward([used[i] for i in params.layers], [grads[i] for i in params.layers])
                penalty = lambdas * params.l2()
                if penalty.requires_grad:
                    penalty.sum().backward()
                objective = total + penalty.detach()
                step_norms = optimizer.step()
            for n, step_values in enumerate(zip(total.tolist(), objective.tolist(), step_norms.tolist(), strict=True)):
                for values, value in zip((losses[n], objectives[n], norms[n]), step_values, strict=True):
                    values.append(value)
            if progress:
                progress(step + 1, n_steps, total.tolist())
            if on_step:
                on_step(step + 1, snapshot)
    return [FitResult(params.state(n), losses[n], objectives[n], norms[n]) for n in range(len(jobs))]
