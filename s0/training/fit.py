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
import itertools
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from s0.data import Example
from s0.errors import ConfigError, S0Error
from s0.kernels.delta_rule import cpu_kernels
from s0.runtime.parallel import fewer_threads, in_lanes, lanes_for
from s0.state.families import Layout, device_of_layer
from s0.state.initial import InitialState
from s0.state.inject import TrainingCache


@dataclass(frozen=True)
class FitConfig:
    """Hyper-parameters of one job (paper, Table 4).

    n_steps optimiser steps, each over the whole set; lr of Adam; l2_lambda weight of the squared norm; grad_clip on the
    norm over all layers (0 = none); max_length tokens of prompt + completion; layers to learn (None = all recurrent);
    alpha_inside: train through alpha * S (the paper's Algorithm 1) instead of scaling afterwards (the published code);
    normalize: train through alpha * S / ||S|| (only with alpha_inside); rank > 0: S is a sum of `rank` outer products
    per head; seed: initialisation of low-rank factors.
    """

    n_steps: int = 20
    lr: float = 1e-3
    l2_lambda: float = 5e-4
    grad_clip: float = 1.0
    max_length: int = 2048
    layers: tuple[int, ...] | None = None
    alpha: float = 1.0
    alpha_inside: bool = False
    normalize: bool = False
    rank: int = 0
    seed: int = 0


@dataclass
class FitJob:
    """One state to learn. `init` (optional) is the state to start from instead of zero."""

    examples: list[Example]
    config: FitConfig
    init: InitialState | None = None


@dataclass
class FitResult:
    """`state` has the configured alpha and normalize; lists have one entry per step (before that step's update)."""

    state: InitialState
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)

    @property
    def avg_state_norm(self) -> float:
        """Mean over learned layers of the Frobenius norm before alpha."""
        norms = self.state.norms()
        return sum(norms.values()) / len(norms)


@dataclass
class Batch:
    """A right-padded micro-batch. ids [B, L]; rows/positions/targets/weights [T], one entry per completion token: the
    logit at (row, position) predicts target; weight = 1 / tokens of the completion / solutions of the job."""

    ids: Tensor
    jobs: Tensor
    rows: Tensor
    positions: Tensor
    targets: Tensor
    weights: Tensor
    token_jobs: Tensor


def truncate(example: Example, max_length: int) -> Example:
    """Prompt + completion cut to `max_length` tokens. Raises S0Error if no completion token is left."""
    room = max_length - len(example.prompt_ids)
    if room < 1 or not example.prompt_ids or not example.completion_ids:
        raise S0Error(
            f"example {example.problem_id}: prompt of {len(example.prompt_ids)} and completion of "
            f"{len(example.completion_ids)} tokens leave nothing to learn within max_length={max_length}; raise max_length"
        )
    return Example(example.problem_id, example.prompt_ids, example.completion_ids[:room])


#: what one more micro-batch costs, in padded tokens (its operations' overhead; experiments/LOG.md)
PASS_TOKENS = 100


def pack(lengths: list[int], budget: int) -> list[int]:
    """Where to cut rows of ascending `lengths` into micro-batches: the end of each, such that rows x longest <= `budget` (or
    one row) and the padded tokens, with PASS_TOKENS for every micro-batch, are as few as possible."""
    least = [0.0]
    cut = [0]
    for end, longest in enumerate(lengths, 1):
        first = max(0, end - max(1, budget // longest))
        cost, at = min((least[a] + (end - a) * longest + PASS_TOKENS, a) for a in range(first, end))
        least.append(cost)
        cut.append(at)
    ends = []
    end = len(lengths)
    while end:
        ends.append(end)
        end = cut[end]
    return ends[::-1]


def make_batches(
    jobs: list[FitJob], device: torch.device, token_budget: int | None, pad_id: int, mix: bool = True
) -> list[Batch]:
    """All rows of all jobs, sorted by length and packed so that rows x longest <= `token_budget` (at least one row).

    A budget of None is 2048 on CPU, where a batch should stay in the caches (experiments/LOG.md), and 16384 elsewhere.
    `mix` lets rows of several jobs share a micro-batch; without, every job has its own, whatever jobs it is trained with.
    """
    budget = token_budget or (2048 if device.type == "cpu" else 16384)
    groups: list[list[tuple[int, int, Example, float]]] = []
    items: list[tuple[int, int, Example, float]] = []
    for j, job in enumerate(jobs):
        for e in job.examples:
            t = truncate(e, job.config.max_length)
            items.append((len(t.prompt_ids) + len(t.completion_ids), j, t, 1.0 / len(job.examples)))
    items.sort(key=lambda x: x[0])
    for own in [items] if mix else [[x for x in items if x[1] == j] for j in range(len(jobs))]:
        ends = pack([x[0] for x in own], budget)
        groups += [own[a:b] for a, b in itertools.pairwise([0, *ends])]
    batches = []
    for group in groups:
        longest = group[-1][0]
        ids = torch.full((len(group), longest), pad_id, dtype=torch.long)
        rows: list[int] = []
        positions: list[int] = []
        targets: list[int] = []
        weights: list[float] = []
        token_jobs: list[int] = []
        for r, (_, j, e, share) in enumerate(group):
            p, c = e.prompt_ids, e.completion_ids
            ids[r, : len(p) + len(c)] = torch.tensor(p + c)
            rows += [r] * len(c)
            positions += range(len(p) - 1, len(p) + len(c) - 1)
            targets += c
            weights += [share / len(c)] * len(c)
            token_jobs += [j] * len(c)
        as_tensor = lambda x, dtype=torch.long: torch.tensor(x, dtype=dtype, device=device)  # noqa: E731
        batches.append(
            Batch(
                ids.to(device),
                as_tensor([g[1] for g in group]),
                as_tensor(rows),
                as_tensor(positions),
                as_tensor(targets),
                as_tensor(weights, torch.float32),
                as_tensor(token_jobs),
            )
        )
    return batches


@contextlib.contextmanager
def logits_at(model: nn.Module) -> Iterator[Callable[[Tensor, Tensor], None]]:
    """Within the context the output head sees only chosen positions: call the yielded function with (rows, positions),
    then `model(...)` returns logits [1, T, vocab]. The vocabulary projection is the dearest matrix of small models and
    most positions of a prompt are never scored; elementwise scaling after the head stays correct for every family."""
    chosen = threading.local()  # passes run side by side (s0.runtime.parallel)
    head = model.get_output_embeddings()  # type: ignore[operator]

    def select(module: nn.Module, args: Any) -> Any:
        if not hasattr(chosen, "at"):
            return None
        hidden = args[0]
        rows, positions = (t.to(hidden.device) for t in chosen.at)
        return (hidden[rows, positions].unsqueeze(0), *args[1:])

    def choose(rows: Tensor, positions: Tensor) -> None:
        chosen.at = (rows, positions)

    handle = head.register_forward_pre_hook(select)  # type: ignore[union-attr]
    try:
        yield choose
    finally:
        handle.remove()


def token_losses(
    model: nn.Module,
    choose: Callable[[Tensor, Tensor], None],
    batch: Batch,
    cache: Any,
    argument: str = "past_key_values",
) -> Tensor:
    """Cross entropy per completion token [T], fp32. `argument` is the model's keyword for the cache."""
    choose(batch.rows, batch.positions)
    logits = model(input_ids=batch.ids, use_cache=cache is not None, **{argument: cache}).logits[0]
    return F.cross_entropy(logits.float(), batch.targets.to(logits.device), reduction="none").to(batch.weights.device)


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


def _squares(x: Tensor) -> Tensor:
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
        return functools.reduce(torch.add, [_squares(self.full(i)).to(home) for i in self.layers])

    def flat(self) -> list[Tensor]:
        return [p for i in self.layers for p in self.params[i]]

    def state(self, n: int) -> InitialState:
        config = self.jobs[n].config
        chosen = [i for i in self.layers if config.layers is None or i in config.layers]
        tensors = {i: self.full(i)[n].detach() for i in chosen}
        return InitialState(tensors, self.layout.architecture, alpha=config.alpha, normalize=config.normalize)


class JobAdam:
    """Adam over tensors whose first dimension is the job, with per-job learning rate and gradient clip.

    The update is torch.optim.Adam's (betas .9/.999, eps 1e-8) for every job by itself; the clip is over all tensors of a
    job together, as `clip_grad_norm_` would do for that job alone.
    """

    def __init__(self, params: list[Tensor], lr: Tensor, clip: Tensor):
        self.params, self.lr, self.clip, self.t = params, lr, clip, 0
        self.m = [torch.zeros_like(p) for p in params]
        self.v = [torch.zeros_like(p) for p in params]

    @torch.no_grad()
    def step(self) -> Tensor:
        """One update; returns the gradient norms before clipping [jobs]."""
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.params]
        home = self.lr.device
        norms = functools.reduce(torch.add, [_squares(g).to(home) for g in grads]).sqrt()
        bad = ~torch.isfinite(norms)
        if bool(bad.any()):
            raise S0Error(
                f"training job {int(bad.nonzero()[0])}: gradient is not finite at step {self.t + 1}; lower method.lr"
            )
        factor = torch.where(self.clip > 0, (self.clip / (norms + 1e-6)).clamp(max=1.0), torch.ones_like(norms))
        self.t += 1
        c1, c2 = 1 - 0.9**self.t, 1 - 0.999**self.t
        for p, g, m, v in zip(self.params, grads, self.m, self.v, strict=True):
            view = [-1] + [1] * (p.ndim - 1)
            g = g * factor.to(p.device).view(view)
            m.lerp_(g, 0.1)
            v.mul_(0.999).addcmul_(g, g, value=0.001)
            p.sub_(self.lr.to(p.device).view(view) * (m / c1) / ((v / c2).sqrt_().add_(1e-8)))
            p.grad = None
        return norms

    def state_dict(self) -> dict[str, Any]:
        return {"t": self.t, "m": self.m, "v": self.v, "p": [p.detach() for p in self.params]}

    @torch.no_grad()
    def load_state_dict(self, data: dict[str, Any]) -> None:
        self.t = data["t"]
        for mine, theirs in ((self.m, data["m"]), (self.v, data["v"]), (self.params, data["p"])):
            for a, b in zip(mine, theirs, strict=True):
                a.copy_(b)


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
    progress         called after every step with (step, n_steps, loss per job)
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
    if any(not j.examples for j in jobs):
        raise S0Error("training: a job has no examples; verify more samples first")
    device = next(model.parameters()).device
    was_training, flags = model.training, [(p, p.requires_grad) for p in model.parameters()]
    model.eval()
    for p, _ in flags:
        p.requires_grad_(False)
    params = StateParameters(layout, jobs)
    home = params.masks[params.layers[0]].device
    adam = JobAdam(
        params.flat(),
        torch.tensor([j.config.lr for j in jobs], device=home),
        torch.tensor([j.config.grad_clip for j in jobs], device=home),
    )
    lambdas = torch.tensor([j.config.l2_lambda for j in jobs], device=home)
    losses: list[list[float]] = [[] for _ in jobs]
    norms: list[list[float]] = [[] for _ in jobs]
    if resume is not None:
        adam.load_state_dict(resume["adam"])
        losses, norms = [list(x) for x in resume["losses"]], [list(x) for x in resume["grad_norms"]]
    batches = make_batches(jobs, device, token_budget, pad_id, device.type != "cpu" if mix is None else mix)
    plain = functools.partial(_training_cache, layout)
    lanes = lanes_for(model)

    def snapshot() -> dict[str, Any]:
        return {"adam": adam.state_dict(), "losses": losses, "grad_norms": norms}

    try:
        with contextlib.ExitStack() as stack, torch.enable_grad():
            choose = stack.enter_context(logits_at(model))
            if checkpointing:
                stack.enter_context(recompute_layers(layout.text_model))
            for step in range(adam.t, n_steps):
                total = torch.zeros(len(jobs), device=home)
                used = {i: params.used(i) for i in params.layers}
                now = {i: s.detach() for i, s in used.items()}
                grads = {i: torch.zeros_like(s) for i, s in now.items()}
                one = functools.partial(one_pass, model, layout, choose, now, through or plain)
                # closed by hand: an interrupt in this loop must not leave passes running behind it
                with contextlib.closing(in_lanes(one, batches, lanes)) as passes:
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
                    total += penalty.detach()
                    step_norms = adam.step()
                for n, (loss, norm) in enumerate(zip(total.tolist(), step_norms.tolist(), strict=True)):
                    losses[n].append(loss)
                    norms[n].append(norm)
                if progress:
                    progress(step + 1, n_steps, total.tolist())
                if on_step:
                    on_step(step + 1, snapshot)
    finally:
        model.train(was_training)
        for p, flag in flags:
            p.requires_grad_(flag)
    return [FitResult(params.state(n), losses[n], norms[n]) for n in range(len(jobs))]


@contextlib.contextmanager
def recompute_layers(text_model: Any) -> Iterator[None]:
    """Recompute each decoder layer in the backward pass. transformers' own switch drops the cache, and with it the
    states, so the layers' forward is wrapped here; gradients reach the rows through the cache the layers close over."""
    layers = list(text_model.layers)
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
