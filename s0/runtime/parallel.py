"""Several forward and backward passes side by side, one thread each.

The operations of a small model are too small to be worth splitting over cores, and most of them (elementwise work, small
batched products) run on one core however many there are. Whole micro-batches are independent, so on CPU each core takes one.
Results come back in the order of the items, so sums over them do not depend on the number of passes at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import nn

Item = TypeVar("Item")
Result = TypeVar("Result")

#: beyond this many parameters matrix products are large enough to be split, and activations too large to hold several times
SMALL_MODEL = 100_000_000
#: more threads than this would wait for Python's lock
MOST = 8


def parallel_passes(model: nn.Module) -> int:
    """Passes worth running at once: torch's threads (at most 8) for a small model on CPU, else 1."""
    if next(model.parameters()).device.type != "cpu" or sum(p.numel() for p in model.parameters()) > SMALL_MODEL:
        return 1
    return min(torch.get_num_threads(), MOST)


@functools.cache
def keep_freed_memory() -> bool:
    """Have the C library keep freed blocks instead of returning them to the system; False where it is not glibc.

    Passes allocate and free the same megabytes over and over. Returned at every free, they are paged in again at every use, and
    the page faults of concurrent threads queue for one lock: two passes at once were no faster than one (experiments/LOG.md).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    settings = ((m_mmap_threshold, 32 << 20), (m_trim_threshold, 1 << 30), (m_top_pad, 16 << 20))
    return all(bool(mallopt(option, value)) for option, value in settings)


class _Threads:
    """Torch's thread count is one number for the process: who comes last sets it back to what the first one found."""

    lock = threading.Lock()
    users = 0
    found = 1


@contextlib.contextmanager
def fewer_threads(n: int) -> Iterator[None]:
    """Torch works with n threads within; may overlap with other such contexts in other threads."""
    with _Threads.lock:
        before = torch.get_num_threads()
        if not _Threads.users:
            _Threads.found = before
        _Threads.users += 1
        torch.set_num_threads(n)
    try:
        yield
    finally:
        with _Threads.lock:
            _Threads.users -= 1
            torch.set_num_threads(before if _Threads.users else _Threads.found)


def run_parallel(
    work: Callable[[Item], Result], items: Iterable[Item], n_parallel: int
) -> Generator[Result, None, None]:
    """`work(item)` for all items, results in order; with `n_parallel` > 1 in that many threads, which share torch's threads.

    At most 2 * n_parallel results wait to be taken. When the caller stops early or `work` raises, passes not yet begun are
    dropped and running ones are awaited.
    """
    if n_parallel <= 1:
        yield from map(work, items)
        return
    keep_freed_memory()
    with fewer_threads(max(torch.get_num_threads() // n_parallel, 1)):
        pool = ThreadPoolExecutor(n_parallel, thread_name_prefix="s0-pass")
        waiting: deque[Future[Any]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * n_parallel:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
