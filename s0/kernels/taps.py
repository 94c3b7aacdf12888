"""The one place that patches the kernels of transformers' modeling files: a layer's call seen, or answered differently.

A context (`Taps`) names a handler per layer. Inside it, the kernel functions that the layer's mixer calls are wrapped: the
handler gets the call (`KernelCall`) and answers with what the mixer shall have. Thread-safe: whose layer is being called is
noted per thread, the wrappers are installed once per modeling file and removed with the last context.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from s0.errors import ArchitectureError, S0Error
from s0.kernels.routing import patching, route
from s0.state.families import Layout
from s0.state.pads import local_mask
from s0.state.recurrences import Recurrence


@dataclass(frozen=True)
class KernelCall:
    """One call of a recurrence's kernel by a layer.

    step    the one-token kernel; otherwise the chunked one
    tokens  [batch, length] mask of the tokens, 0 at pads; None where there is no pad
    """

    layer: int
    recurrence: Recurrence
    module: ModuleType
    kernel: Callable[..., Any]
    step: bool
    tokens: Tensor | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> Any:
        """What the kernel answers."""
        return self.kernel(*self.args, **self.kwargs)

    def bound(self, what: str = "tap") -> inspect.BoundArguments:
        """The call's arguments by name, defaults applied. Raises S0Error for packed sequences."""
        bound = inspect.signature(inspect.unwrap(self.kernel)).bind(*self.args, **self.kwargs)
        bound.apply_defaults()
        extra = {**bound.arguments, **bound.arguments.get("kwargs", {})}
        if extra.get("cu_seqlens") is not None or extra.get("seq_idx") is not None:
            raise S0Error(
                f"{what}: packed sequences (cu_seqlens, seq_idx) are not supported; pass one sequence per row"
            )
        return bound


Handler = Callable[[KernelCall], Any]


@dataclass
class _Patched:
    """One modeling file whose kernels are wrapped, and the contexts that need them to be."""

    originals: dict[str, Callable[..., Any]]
    contexts: list[Taps] = field(default_factory=list)


_PATCHED: dict[str, _Patched] = {}
#: `context`, `layer`, `tokens`: whose layer is being called in this thread; `reached`: it called its kernel
_thread = threading.local()


def _running() -> Taps | None:
    return getattr(_thread, "context", None)


def _wrap(module: ModuleType, kernel: Callable[..., Any], step: bool) -> Callable[..., Any]:
    @functools.wraps(kernel)
    def call(*args: Any, **kwargs: Any) -> Any:
        context = _running()
        if context is None:
            return kernel(*args, **kwargs)
        _thread.reached = True
        layer, recurrence = _thread.layer, context.layout.family.recurrence
        one = KernelCall(layer, recurrence, module, kernel, step, _thread.tokens, args, kwargs)
        return context.handlers[layer](one)

    return call


def _unfused(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The fused training path has no place for a handler; answering None makes the mixer take the ordinary one."""

    @functools.wraps(kernel)
    def call(*args: Any, **kwargs: Any) -> Any:
        return kernel(*args, **kwargs) if _running() is None else None

    return call


class Taps:
    """Context in which `handlers` (layer -> handler) answer for the kernels of one model's recurrent layers.

    private   only for calls from the thread that entered the context: others work side by side with contexts of their own
    what      who speaks in error messages

    Several threads may call the model within one context. Other models of the same family are not affected. Raises
    ArchitectureError where transformers has no kernel functions to wrap, S0Error where a layer ran without reaching them
    (replaced forward), or is tapped by two contexts at once.
    """

    what = "tap"

    def __init__(self, layout: Layout, handlers: Mapping[int, Handler], private: bool = False):
        self.layout, self.handlers, self.private = layout, dict(handlers), private
        self.owner: int | None = None
        self._handles: list[Any] = []
        self._module = sys.modules[type(layout.mixers[layout.layers[0]]).__module__]

    def _before(self, layer: int) -> Callable[..., None]:
        def hook(mixer: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            if self.owner not in (None, threading.get_ident()):
                return
            if _running() is not None:
                raise S0Error(f"{self.what}: layer {layer} is tapped by another context already; close that one first")
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            mask = kwargs.get("attention_mask", args[2] if len(args) > 2 else None)
            _thread.context, _thread.reached = self, False
            _thread.layer, _thread.tokens = layer, local_mask(mask, hidden.shape[1])

        return hook

    def _after(self, layer: int) -> Callable[..., None]:
        def hook(mixer: nn.Module, args: Any, output: Any) -> None:
            if _running() is not self:
                return
            _thread.context = None
            if not _thread.reached and output is not None:
                raise S0Error(
                    f"{self.what}: layer {layer} ({type(mixer).__name__}) ran without its kernel functions; "
                    "load the model without replaced (hub) layers"
                )

        return hook

    def __enter__(self) -> Any:
        recurrence, name = self.layout.family.recurrence, self._module.__name__
        needed = (recurrence.chunk, recurrence.step)
        if any(not hasattr(self._module, n) for n in needed):
            raise ArchitectureError(
                f"{self.what}: {self.layout.family.name} ({name}) has no kernel functions {' and '.join(needed)} to wrap; "
                "use a model whose modeling file has them"
            )
        with patching:
            route(self._module)
            if name not in _PATCHED:
                kernels = [n for n in (*needed, recurrence.fused) if n and hasattr(self._module, n)]
                originals = {n: getattr(self._module, n) for n in kernels}
                _PATCHED[name] = _Patched(originals)
                for n, original in originals.items():
                    wrapped = _wrap(self._module, original, n == recurrence.step) if n in needed else _unfused(original)
                    setattr(self._module, n, wrapped)
            _PATCHED[name].contexts.append(self)
        self.owner = threading.get_ident() if self.private else None
        for i in self.handlers:
            mixer = self.layout.mixers[i]
            self._handles.append(mixer.register_forward_pre_hook(self._before(i), with_kwargs=True))
            self._handles.append(mixer.register_forward_hook(self._after(i), always_call=True))
        return self

    def __exit__(self, *exc: Any) -> None:
        for h in self._handles:
            h.remove()
        self._handles = []
        if _running() is self:
            _thread.context = None
        name = self._module.__name__
        with patching:
            patched = _PATCHED[name]
            patched.contexts.remove(self)
            if not patched.contexts:
                for n, original in patched.originals.items():
                    setattr(self._module, n, original)
                del _PATCHED[name]
