"""CUDA-graph capture of the decode step: one graph per attended length, replayed with new tokens and positions.

A decode step of a hybrid model launches some thousand small kernels; replaying a graph removes their launch cost. The
slot cache's buffers stay at fixed addresses while a graph lives; growing or compacting the cache drops all graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from s0.engines.slots import SlotCache


class GraphedDecode:
    """Callable like the plain step: tokens [slots] -> logits [slots, vocab] (a buffer, overwritten by the next call)."""

    def __init__(self, forward: Callable[[Tensor], Tensor], cache: SlotCache, notes: dict[str, Any]):
        self.forward, self.cache, self.notes = forward, cache, notes
        self.graphs: dict[int, tuple[Any, Tensor]] = {}
        self.addresses: tuple[int, ...] = ()
        self.tokens: Tensor | None = None
        self.pool = torch.cuda.graph_pool_handle()
        cache.static = True

    def reset(self) -> None:
        self.graphs.clear()
        self.tokens = None

    def _addresses(self) -> tuple[int, ...]:
        tensors = [t for kv in self.cache.kv.values() for t in kv] + self._running()
        return (self.cache.positions.data_ptr(), *(t.data_ptr() for t in tensors))

    def __call__(self, tokens: Tensor) -> Tensor:
        addresses = self._addresses()
        if addresses != self.addresses or self.tokens is None or self.tokens.shape != tokens.shape:
            self.reset()
            self.addresses, self.tokens = addresses, tokens.clone()
        self.tokens.copy_(tokens)
        length = self.cache.attended
        if length not in self.graphs:
            self._capture(length)
        graph, logits = self.graphs[length]
        graph.replay()
        return logits

    def _capture(self, length: int) -> None:
        """Warm-up and capture run the step for real, so what it changed is put back before the first replay."""
        assert self.tokens is not None
        saved = self._snapshot()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self.forward(self.tokens)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            logits = self.forward(self.tokens)
        self._restore(saved)
        self.graphs[length] = (graph, logits)
        self.notes["cuda_graphs"] = len(self.graphs)

    def _running(self) -> list[Tensor]:
        """Buffers a step changes beyond repair: states and windows (keys are rewritten at the same position)."""
        return [store[n] for store, n in self.cache.running()]

    def _snapshot(self) -> list[Tensor]:
        return [t.clone() for t in self._running()]

    def _restore(self, saved: list[Tensor]) -> None:
        for t, s in zip(self._running(), saved, strict=True):
            t.copy_(s)
