"""One forward pass of training: scored positions only, loss per token, recomputed layers."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from s0.training.batches import Batch


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


@contextlib.contextmanager
def frozen(model: nn.Module) -> Any:
    """The model in eval mode with no parameter asking for gradients; both are restored afterwards."""
    training, flags = model.training, [(p, p.requires_grad) for p in model.parameters()]
    model.eval()
    for p, _ in flags:
        p.requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for p, flag in flags:
            p.requires_grad_(flag)
