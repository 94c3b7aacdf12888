"""Passes side by side: same bytes as one after the other, in order, and nothing left running."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
import torch
from test_fit import some_examples

import s0.training.fit
from s0.runtime.parallel import fewer_threads, parallel_passes, run_parallel
from s0.state.families import describe
from s0.state.random_models import build
from s0.training.fit import fit_states
from s0.training.jobs import FitConfig, FitJob


@pytest.fixture
def two_threads():  # type: ignore[no-untyped-def]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["qwen3_5", "falcon_h1"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_trained_bytes_do_not_depend_on_the_number_of_passes_at_once(
    name: str, checkpointing: bool, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = build(name).eval()
    layout = describe(model)
    jobs = [FitJob(some_examples(s, 9, int(layout.text_config.vocab_size)), FitConfig(n_steps=3)) for s in range(3)]
    results = {}
    for n_parallel in (1, 2, 5):
        torch.set_num_threads(n_parallel)  # each lane has one
        monkeypatch.setattr(s0.training.fit, "parallel_passes", lambda model, n=n_parallel: n)
        results[n_parallel] = fit_states(model, layout, jobs, token_budget=120, checkpointing=checkpointing)
        assert torch.get_num_threads() == n_parallel
    for n_parallel in (2, 5):
        for a, b in zip(results[1], results[n_parallel], strict=True):
            assert a.losses == b.losses
            assert a.grad_norms == b.grad_norms
            assert all(torch.equal(a.state.tensors[i], b.state.tensors[i]) for i in a.state.tensors)


def test_results_come_in_order_and_side_by_side(two_threads: None) -> None:
    meet = threading.Barrier(2, timeout=30)

    def work(n: int) -> int:
        meet.wait()  # passes only if another item is worked on at the same time
        time.sleep(0.002 * (n % 3))
        return n

    assert list(run_parallel(work, range(12), 2)) == list(range(12))


def test_a_failing_pass_ends_the_run_and_leaves_nothing_behind(two_threads: None) -> None:
    begun: list[int] = []

    def work(n: int) -> int:
        begun.append(n)
        if n == 3:
            raise ValueError("pass 3")
        return n

    with pytest.raises(ValueError, match="pass 3"):
        list(run_parallel(work, range(1000), 2))
    assert len(begun) < 20
    assert not [t for t in threading.enumerate() if t.name.startswith("s0-pass")]
    assert torch.get_num_threads() == 2


def test_a_caller_that_stops_early_leaves_no_thread(two_threads: None) -> None:
    results = run_parallel(lambda n: n, range(1000), 2)
    assert next(results) == 0
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("s0-pass")]
    assert torch.get_num_threads() == 2


def test_large_models_keep_their_threads_for_one_pass(two_threads: None) -> None:
    assert parallel_passes(build("qwen3_5")) == 2
    with torch.device("meta"):
        assert parallel_passes(torch.nn.Linear(20_000, 20_000)) == 1


def test_overlapping_contexts_leave_the_thread_count_as_it_was(two_threads: None) -> None:
    """One thread leaves between another's entry and exit; a thread begun afterwards sees the old count."""
    first, second = fewer_threads(1), fewer_threads(1)
    first.__enter__()
    other = threading.Thread(target=second.__enter__)
    other.start()
    other.join()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    seen: list[int] = []
    late = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    late.start()
    late.join()
    assert seen == [2]
    assert torch.get_num_threads() == 2


PAGED = """
import resource, threading, torch
from s0.runtime.parallel import keep_freed_memory

faults = []

def work():
    for turn in range(60):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        blocks = [torch.ones(1 << 20) for _ in range(24)]
        del blocks
        if turn >= 40:  # the heap has grown to what it needs
            faults.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)

torch.set_num_threads(1)
kept = keep_freed_memory()
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(kept, sum(faults))
"""


def test_memory_freed_in_a_pass_is_not_paged_in_again() -> None:
    run = subprocess.run([sys.executable, "-c", PAGED], capture_output=True, text=True, check=True)
    kept, faults = run.stdout.split()
    if kept != "True":
        pytest.skip("not glibc")
    # without the call about 50 000: blocks of 4 MB are returned and paged in again every turn
    assert int(faults) < 1024
