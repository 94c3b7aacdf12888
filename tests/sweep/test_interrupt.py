"""Ctrl-C and SIGTERM: one line, the right exit code, finished work kept, no process left behind; also with workers."""

from __future__ import annotations

import os
import signal
import time

import pytest
from processes import descendants, gone

pytestmark = pytest.mark.slow


def start_and_wait(trial, *extra: str):
    process = trial.start(*extra)
    logs = trial.folder / "store" / "completions"
    end = time.monotonic() + 120
    while not any(p.stat().st_size for p in logs.glob("*.jsonl")):
        assert process.poll() is None, (trial.folder / "stderr").read_text()
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


def last_line(trial) -> str:
    return (trial.folder / "stderr").read_text().strip().splitlines()[-1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_ends_at_once_in_one_line(trial, number: int, code: int) -> None:
    process = start_and_wait(trial)
    children = descendants(process.pid)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(
        number
    )  # a terminal tells the group
    assert process.wait(timeout=30) == code
    assert last_line(trial) == "interrupted: finished work is kept; run the same command again to go on"
    assert "Traceback" not in (trial.folder / "stderr").read_text()
    assert gone(children, 5.0) == set()
    assert any(p.stat().st_size for p in (trial.folder / "store" / "completions").glob("*.jsonl"))


def test_workers_end_when_their_parent_is_terminated(trial) -> None:
    process = start_and_wait(trial, "workers=2")
    children = descendants(process.pid)
    assert len(children) >= 2
    process.terminate()
    assert process.wait(timeout=30) == 143
    assert last_line(trial) == "interrupted: finished work is kept; run the same command again to go on"
    assert "Traceback" not in (trial.folder / "stderr").read_text()
    assert gone(children, 5.0) == set()


def test_workers_end_when_their_parent_is_killed(trial) -> None:
    process = start_and_wait(trial, "workers=2")
    children = descendants(process.pid)
    process.kill()
    process.wait()
    assert gone(children, 20.0) == set()
