"""Training as a stage: stored adapters are read, missing ones learned together, by one process at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from s0.config.schema import TrainConfig
from s0.data import digest
from s0.errors import ArchitectureError, StoreError
from s0.experiment.checkpoint import Checkpoint
from s0.methods import Adapter, FitContext, Method, Training, TrainingSet
from s0.runtime.progress import bar
from s0.storage import keys
from s0.storage.files import atomic_path
from s0.storage.store import Store

#: one fit learns at most so many states, of so many numbers in all: about five fp32 copies of them lie in memory (11 GB)
FUSED, FUSED_NUMBERS = 64, 2**29


def adapter_key(checkpoint: Checkpoint, method: Method, one: TrainingSet) -> str:
    """Key of what this method learns from this set."""
    return keys.adapter(checkpoint.key, method, one.seed, one.examples)


def train(
    store: Store, checkpoint: Checkpoint, trainings: Sequence[Training], settings: TrainConfig
) -> dict[str, Adapter]:
    """Adapters by key for all trainings: stored ones are loaded, the others learned together and stored (see `learn`)."""
    keyed = {adapter_key(checkpoint, method, one): method for method, one in trainings}
    store.count("trained states", sum(store.has_folder(_kind(m), k) for k, m in keyed.items()), len(keyed))
    learn(store, checkpoint, trainings, settings)
    ctx = context(checkpoint, settings)
    return {k: _load(method, ctx, store.folder(_kind(method), k)) for k, method in keyed.items()}


def _load(method: Method, ctx: FitContext, folder: Path) -> Adapter:
    try:
        return method.load(ctx, folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{folder}: no whole adapter ({type(error).__name__}: {error}); delete the folder and run again: it is learned anew"
        ) from error


def learn(store: Store, checkpoint: Checkpoint, trainings: Sequence[Training], settings: TrainConfig) -> None:
    """Have every training in the store: what is missing is learned together, in fits of at most `FUSED` trainings, and by
    one process at a time. The methods must be equal in `joint_key`, or one.

    A training in progress leaves a snapshot every `snapshot_s` seconds. After a kill, whoever fits the same trainings
    goes on from there.
    """
    keyed = {adapter_key(checkpoint, method, one): (method, one) for method, one in trainings}

    def absent(keys: Iterable[str]) -> list[str]:
        return [k for k in keys if not store.has_folder(_kind(keyed[k][0]), k)]

    size = 0
    while missing := absent(keyed):
        size = size or _fused_at_once(checkpoint)
        idle = True
        for start in range(0, len(missing), size):
            part = sorted(missing[start : start + size])
            with contextlib.ExitStack() as claims:
                with store.claim("fit"):  # of two processes that want the same trainings, one is to get them all
                    mine = [k for k in part if claims.enter_context(store.claim(f"fit-{k}", wait=False))]
                if todo := absent(mine):
                    _fit(store, checkpoint, {k: keyed[k] for k in todo}, len(missing), settings)
                    idle = False
        if idle and (missing := absent(missing)):
            with store.claim(f"fit-{missing[0]}"):
                pass  # whoever held it has learned it now or died; then the next round takes over all it held


def _fused_at_once(checkpoint: Checkpoint) -> int:
    try:
        return max(1, min(FUSED, FUSED_NUMBERS // checkpoint.layout.n_parameters()))
    except ArchitectureError:
        return FUSED


def _fit(store: Store, checkpoint: Checkpoint, keyed: dict[str, Training], of: int, settings: TrainConfig) -> None:
    """Learn these trainings, of so many that are missing, in one fit and store them."""
    trainings = list(keyed.values())
    method = trainings[0][0]
    several = len({digest(m.determinants()) for m, _ in trainings})
    snapshot = store.root / "partial" / f"{keys.snapshot(list(keyed))}.pt"
    label = f"train {method.name}, {several} settings," if several > 1 else f"train {method.label()}"
    with bar(f"{label} x{len(keyed)}{f' of {of}' if of > len(keyed) else ''}", None, "steps") as progress:

        def after(step: int, n_steps: int, losses: list[float]) -> None:
            progress.to(step, n_steps)
            progress.note(f"mean loss {sum(losses) / len(losses):.4f}")

        ctx = context(checkpoint, settings)
        ctx.progress = after
        if method.resumable:
            ctx.resume, ctx.on_step = _snapshots(snapshot, settings.snapshot_s)
        try:
            adapters = method.fit_jointly(ctx, trainings)
        except Exception:
            if several > 1:  # these will be fitted apart: nobody would go on from here
                snapshot.unlink(missing_ok=True)
            raise
    for (key, (m, _)), adapter in zip(keyed.items(), adapters, strict=True):
        with store.new_folder(_kind(m), key) as folder:
            adapter.save(folder)
    snapshot.unlink(missing_ok=True)


def adapter_folder(store: Store, method: Method, key: str) -> Path:
    return store.folder(_kind(method), key)


def _kind(method: Method) -> str:
    return f"adapters-{method.name}"


def context(checkpoint: Checkpoint, settings: TrainConfig) -> FitContext:
    try:
        layout: Any = checkpoint.layout
    except ArchitectureError:
        layout = None
    return FitContext(
        checkpoint.model,
        checkpoint.tokenizer,
        layout,
        token_budget=settings.token_budget,
        checkpointing=settings.checkpointing,
    )


def _snapshots(path: Path, every_s: float) -> tuple[dict[str, Any] | None, Callable[..., None]]:
    import torch

    resume = torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
    last = time.monotonic()

    def on_step(step: int, make: Callable[[], dict[str, Any]]) -> None:
        nonlocal last
        if time.monotonic() - last >= every_s:
            with atomic_path(path) as temporary:
                torch.save(make(), temporary)
            last = time.monotonic()

    return resume, on_step
