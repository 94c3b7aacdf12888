"""The training loop of the methods that add parameters of their own to the model (LoRA, prefix).

One training set after another: completion-only cross entropy, mean over the tokens of a solution, mean over solutions,
gradient-norm clip over all parameters; one step is the whole set, gradients accumulated over micro-batches. Batches
are right-padded, so nothing at or before a completion's last token sees a pad.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from s0.errors import S0Error
from s0.kernels.routing import cpu_kernels
from s0.runtime.parallel import parallel_passes, run_parallel
from s0.state.cache import TrainingCache
from s0.training.batches import Batch, make_batches
from s0.training.jobs import Curve, FitConfig, FitContext, FitJob, TrainingSet
from s0.training.optimizers import OPTIMIZERS
from s0.training.passes import frozen, recompute_layers, token_losses
from s0.training.passes import logits_at as scored_positions
from s0.training.settings import Training


@dataclass
class Trainee:
    """Parameters to learn (leaves, fp32) and what a forward pass of `batch` rows needs.

    cache(batch)   the cache handed to the model, or None
    result()       what was learned, by name (fp32, CPU)
    """

    parameters: list[nn.Parameter]
    result: Callable[[], dict[str, Tensor]]
    cache: Callable[[int], Any]


def zero_state(ctx: FitContext) -> Callable[[int], Any]:
    """Caches that start recurrent layers at zero: without one, Mamba-2 models may take a fused path of their own."""
    if ctx.layout is None:
        return lambda batch: None
    return lambda batch: TrainingCache(ctx.layout, {})


def text_model(ctx: FitContext) -> nn.Module:
    """The backbone that holds the decoder layers."""
    return ctx.layout.text_model if ctx.layout is not None else ctx.model.base_model


def train_each(
    ctx: FitContext,
    sets: list[TrainingSet],
    settings: Training,
    open_trainee: Callable[[int], contextlib.AbstractContextManager[Trainee]],
) -> list[tuple[dict[str, Tensor], Curve]]:
    """Train on each set with a fresh trainee of that set's seed; the model is left as it was found.

    Progress and snapshots count steps over all sets.
    Raises S0Error for an empty set, examples that do not fit max_length, or a gradient that is not finite.
    """
    done: list[tuple[dict[str, Tensor], Curve]] = []
    resume = ctx.resume
    if resume is not None:
        done = [(tensors, Curve.from_json(curve)) for tensors, curve in resume["done"]]
    for position, one in enumerate(sets):
        if position < len(done):
            continue
        if not one.examples:
            raise S0Error(f"training (seed {one.seed}): no examples; verify more samples first")
        here = resume["current"] if resume is not None and position == len(resume["done"]) else None
        with frozen(ctx.model), open_trainee(one.seed) as trainee:
            curve = _train(ctx, sets, position, one, settings, trainee, done, here)
            done.append((trainee.result(), curve))
    return done


def _train(
    ctx: FitContext,
    sets: list[TrainingSet],
    position: int,
    one: TrainingSet,
    settings: Training,
    trainee: Trainee,
    done: list[tuple[dict[str, Tensor], Curve]],
    resume: dict[str, Any] | None,
) -> Curve:
    params, n_steps = trainee.parameters, settings.n_steps
    device = next(ctx.model.parameters()).device
    argument = ctx.layout.cache_argument if ctx.layout is not None else "past_key_values"
    job = FitJob(one.examples, FitConfig(max_length=settings.max_length))
    batches = make_batches([job], device, ctx.token_budget, pad_id=0)
    optimizer: Any = OPTIMIZERS[settings.optimizer].single(params, lr=settings.lr)  # type: ignore[call-arg]
    curve = Curve()
    if resume is not None:
        for p, saved in zip(params, resume["params"], strict=True):
            p.data.copy_(saved)
        optimizer.load_state_dict(resume["optimizer"])
        curve = Curve.from_json(resume["curve"])

    def snapshot() -> dict[str, Any]:
        return {
            "done": [(tensors, c.to_json()) for tensors, c in done],
            "current": {
                "params": [p.detach().clone() for p in params],
                "optimizer": optimizer.state_dict(),
                "curve": {k: list(v) for k, v in curve.to_json().items()},
            },
        }

    n_parallel = parallel_passes(ctx.model)
    kernels = functools.partial(cpu_kernels, ctx.layout) if ctx.layout is not None else contextlib.nullcontext

    def one_pass(batch: Batch) -> tuple[float, tuple[Tensor | None, ...]]:
        """Loss and gradients of one micro-batch."""
        with torch.enable_grad(), kernels():
            cache = trainee.cache(batch.ids.shape[0])
            loss = (token_losses(ctx.model, choose, batch, cache, argument) * batch.weights).sum()
            return float(loss.detach()), torch.autograd.grad(loss, params, allow_unused=True)

    with contextlib.ExitStack() as stack, torch.enable_grad():
        choose = stack.enter_context(scored_positions(ctx.model))
        if ctx.checkpointing:
            stack.enter_context(recompute_layers(text_model(ctx)))
        for step in range(len(curve.losses), n_steps):
            total = 0.0
            with contextlib.closing(run_parallel(one_pass, batches, n_parallel)) as passes:
                for loss, grads in passes:
                    total += loss
                    for p, g in zip(params, grads, strict=True):
                        if g is not None:
                            p.grad = g if p.grad is None else p.grad.add_(g)
            clip = settings.grad_clip or float("inf")
            norm = float(nn.utils.clip_grad_norm_(params, clip))
            if not torch.isfinite(torch.tensor(norm)):
                raise S0Error(f"training (seed {one.seed}): gradient is not finite at step {step + 1}; lower method.lr")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            curve.losses.append(total)
            curve.objective.append(total)  # nothing but the cross entropy is minimised
            curve.grad_norms.append(norm)
            at = position * n_steps + step + 1
            if ctx.progress:
                ctx.progress(at, len(sets) * n_steps, [total])
            if ctx.on_step:
                ctx.on_step(at, snapshot)
    return curve
