"""However a sweep is run, its records are equal: killed, by workers one of which dies, on Ray, on SLURM with a requeue."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
from processes import gone
from sweeps import Undisturbed, check_sweep

pytestmark = pytest.mark.slow


def need(way: str) -> None:
    if reason := check_sweep.missing(way):
        pytest.skip(f"{way}: {reason}")


def test_undisturbed_sweep_has_a_record_per_alpha_and_seed(undisturbed: Undisturbed) -> None:
    assert len(undisturbed.fingerprints) == 10
    assert len(set(undisturbed.fingerprints.values())) == 10


def test_killed_in_sampling_training_and_evaluation_then_the_same_command(undisturbed: Undisturbed, trial) -> None:
    assert check_sweep.killed(trial) == undisturbed.fingerprints


def test_two_workers_with_devices_of_their_own_one_is_killed(undisturbed: Undisturbed, trial) -> None:
    process = trial.start("workers=2", env={"CUDA_VISIBLE_DEVICES": "5,7"})
    out = trial.folder / "stdout"
    pattern = re.compile(r"\[worker (\d)\] process (\d+), device (\S+), (\d+) thread")
    end = time.monotonic() + 120
    sampling = lambda: any(p.stat().st_size for p in (trial.folder / "store" / "completions").glob("*.jsonl"))  # noqa: E731
    while process.poll() is None and not (sampling() and len(pattern.findall(out.read_text())) == 2):
        assert time.monotonic() < end, out.read_text()
        time.sleep(0.01)
    started = pattern.findall(out.read_text())
    assert {(index, device) for index, _, device, _ in started} == {("0", "5"), ("1", "7")}
    os.kill(int(started[0][1]), signal.SIGKILL)
    assert process.wait() == 0, (trial.folder / "stderr").read_text()
    assert f"worker {started[0][0]} died (signal 9); its cell is taken over" in out.read_text()
    assert len(pattern.findall(out.read_text())) == 3, "one replacement"
    assert trial.fingerprints() == undisturbed.fingerprints
    assert not list((trial.folder / "store" / "sweeps").iterdir())
    assert gone({int(pid) for _, pid, _, _ in pattern.findall(out.read_text())}, 1.0) == set()


def test_ray_cluster_of_two_workers(undisturbed: Undisturbed, trial) -> None:
    need("ray")
    assert check_sweep.ray(trial) == undisturbed.fingerprints


def test_one_node_slurm_with_a_job_cancelled_and_requeued(undisturbed: Undisturbed, trial) -> None:
    """Three of the five alphas: every job is a process of its own that loads everything."""
    need("slurm")
    trial.sweep[0] = "method.alpha=0.03,0.07,0.15"
    found = check_sweep.slurm(trial)
    assert len(found) == 6
    assert found.items() <= undisturbed.fingerprints.items()
