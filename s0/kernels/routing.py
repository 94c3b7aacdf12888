"""Which kernel a mixer calls: the project's own on CPU in training, transformers' otherwise."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from s0.kernels.delta_rule import gated_delta_rule
from s0.state.families import Layout

_KERNEL = "torch_chunk_gated_delta_rule"


_thread = threading.local()


#: held by whoever replaces kernels in transformers' modules
patching = threading.Lock()


def _in_force(query: Tensor) -> bool:
    return getattr(_thread, "on", False) and query.device.type == "cpu"


def fp32_kernel(kernel: Callable[..., Any], query: Tensor) -> Callable[..., Any]:
    """The rule in fp32 behind a (possibly fused, possibly routed) `kernel` of a modeling file: `gated_delta_rule` where
    `cpu_kernels` is in force, else the torch reference."""
    return gated_delta_rule if hasattr(kernel, "s0_routed") and _in_force(query) else inspect.unwrap(kernel)


def _routed(kernel: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(kernel)
    def call(*args: Any, **kwargs: Any) -> Any:
        fast = _in_force(args[0] if args else kwargs["query"]) and kwargs.get("cu_seqlens") is None
        return gated_delta_rule(*args, **kwargs) if fast else kernel(*args, **kwargs)

    call.s0_routed = True  # type: ignore[attr-defined]
    return call


def route(module: Any) -> None:
    """Have the module's kernel ask which one is in force (caller holds `patching`). It stays so: whoever wraps kernels calls
    this first, so that the route lies beneath every wrapper."""
    kernel = getattr(module, _KERNEL, None)
    if kernel is not None and not hasattr(kernel, "s0_routed"):
        setattr(module, _KERNEL, _routed(kernel))


@contextlib.contextmanager
def cpu_kernels(layout: Layout) -> Iterator[None]:
    """Within the context, and in this thread only, gated-delta layers on CPU compute with `gated_delta_rule`.

    Other families, layers on other devices and other threads keep the kernels of transformers.
    """
    module = sys.modules[type(layout.mixers[layout.layers[0]]).__module__]
    with patching:
        route(module)
    before = getattr(_thread, "on", False)
    _thread.on = True
    try:
        yield
    finally:
        _thread.on = before
