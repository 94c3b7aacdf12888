"""Processes that share a store and are killed at random moments: nothing is lost, doubled, torn or mixed up."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from store_load import record, value, weights

from s0.storage.records import fingerprint, read_record
from s0.storage.store import Store

LOAD = str(Path(__file__).parent / "store_load.py")
UNITS = 24
#: a kill test that has not got its kills by then gives up with a clear failure
LIMIT_S = 90.0


def start(root: Path, groups: int, pause: float, seed: int) -> subprocess.Popen[bytes]:
    arguments = [str(root), str(groups), str(UNITS), str(pause), str(seed)]
    return subprocess.Popen([sys.executable, LOAD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def check(root: Path, groups: int) -> None:
    store = Store(root / "store")
    for g in range(groups):
        path = store.root / "completions" / f"{g:04d}.jsonl"
        assert store.log("completions", f"{g:04d}").refresh() == {str(u): value(g, u) for u in range(UNITS)}
        keys = []
        for line in path.read_bytes().splitlines():
            try:
                keys.append(json.loads(line)["k"])
            except ValueError:
                continue  # torn by a kill
        assert [k for k, n in Counter(keys).items() if n > 1] == [], "a stored unit was computed again"
        folder = store.folder("adapters", str(g))
        assert sorted(p.name for p in folder.iterdir()) == ["meta.json", "states.bin"]
        assert (folder / "states.bin").read_bytes() == weights(g)
        (path,) = (root / "records").glob(f"*__{record(g).key}.json")
        assert fingerprint(read_record(path)) == fingerprint(record(g))
        lines = path.with_suffix(".jsonl").read_text().split("\n")
        assert [json.loads(line) for line in lines if line] == [value(g, u) for u in range(UNITS)]
    assert len(list((root / "records").glob("*.json"))) == groups
    shared = store.log("verdicts", "shared").refresh()
    assert all(shared[k] == [int(x) for x in k.split(":")] for k in shared)


@pytest.mark.parametrize("n", [2, 10])
def test_processes_share_a_store_undisturbed(n: int, tmp_path: Path) -> None:
    processes = [start(tmp_path, 12, 0.0, seed) for seed in range(n)]
    for p in processes:
        assert p.wait(timeout=LIMIT_S) == 0, p.stderr and p.stderr.read()
    check(tmp_path, 12)
    assert len(Store(tmp_path / "store").log("verdicts", "shared").refresh()) == 12 * UNITS


@pytest.mark.slow
@pytest.mark.parametrize(("n", "kills", "groups"), [(2, 30, 60), (10, 30, 60)])
def test_kill_minus_nine_at_random_moments(n: int, kills: int, groups: int, tmp_path: Path) -> None:
    rng = random.Random(n)
    pause = 0.004 * n
    processes = {i: start(tmp_path, groups, pause, i) for i in range(n)}
    killed, begun, restarts = 0, time.monotonic(), n
    while killed < kills:
        assert time.monotonic() - begun < LIMIT_S, f"only {killed} kills"
        i = rng.randrange(n)
        p = processes[i]
        assert p.stdout is not None
        p.stdout.readline()  # it works now
        time.sleep(rng.uniform(0, 0.15))
        if p.poll() is None:
            p.kill()
            p.wait()
            killed += 1
        else:
            assert p.returncode == 0, p.stderr and p.stderr.read()
            groups += 4  # all was done: more work, so that the kills hit something
        restarts += 1
        processes[i] = start(tmp_path, groups, pause, restarts)
    for p in processes.values():
        p.kill()
        p.wait()
    last = start(tmp_path, groups, 0.0, 0)
    assert last.wait(timeout=LIMIT_S) == 0, last.stderr and last.stderr.read()
    check(tmp_path, groups)


def test_a_claim_of_a_killed_process_is_free_at_once_even_if_its_child_lives(tmp_path: Path) -> None:
    root = Path(LOAD).parents[2]
    code = (
        f"import subprocess, sys, time; sys.path.insert(0, {str(root)!r})\n"
        f"from s0.storage.store import Store\n"
        f"with Store({str(tmp_path)!r}).claim('x') as mine:\n"
        f"    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"    print(child.pid, flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    store = Store(tmp_path)
    try:
        with store.claim("x", wait=False) as mine:
            assert not mine
        assert store.holder_of("x") is not None
        assert str(holder.pid) in store.holder_of("x")  # type: ignore[operator]
        holder.kill()
        holder.wait()
        with store.claim("x", wait=False) as mine:
            assert mine
    finally:
        holder.kill()
        subprocess.run(["kill", "-9", str(child)], check=False)


def test_a_waiting_process_gets_the_claim_when_the_holder_dies(tmp_path: Path, capsys) -> None:
    root = Path(LOAD).parents[2]
    code = (
        f"import sys, time; sys.path.insert(0, {str(root)!r})\nfrom s0.storage.store import Store\n"
        f"with Store({str(tmp_path)!r}).claim('x') as mine:\n    print('held', flush=True); time.sleep(0.5)\n"
        f"    import os; os.kill(os.getpid(), 9)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    holder.stdout.readline()
    with Store(tmp_path).claim("x") as mine:
        assert mine
        assert holder.wait() == -9
    assert f"waiting for process {holder.pid}" in capsys.readouterr().out
