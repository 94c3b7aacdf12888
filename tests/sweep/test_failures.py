"""Failing cells and seeds leave the others good; the end says what failed and how to run it again."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import ROOT, Undisturbed, check_sweep

from s0.storage.records import read_record

pytestmark = pytest.mark.slow


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "run.py", *argv], cwd=ROOT, capture_output=True, text=True, check=False)


def ours(stderr: str) -> list[str]:
    """Lines of stderr that are not transformers' hints about kernels."""
    return [line for line in stderr.splitlines() if line and not line.startswith("[transformers]")]


def test_a_failing_cell_leaves_the_others_and_its_rerun_command_works(tmp_path: Path, undisturbed: Undisturbed) -> None:
    good = ROOT / "s0" / "tiny" / "tiny_gdn"
    broken = tmp_path / "broken"
    shutil.copytree(good, broken)
    (broken / "config.json").write_text('{"model_type": "no_such_model"}')
    folder = tmp_path / "work"
    shutil.copytree(undisturbed.trial.folder / "store", folder / "store")
    places = [f"store={folder / 'store'}", f"records={folder / 'records'}", f"out={folder / 'out'}"]
    models = f"model.path={broken},embedded:tiny_gdn"
    done = run("-m", models, "seed=0..1", "method.alpha=0.03", *check_sweep.LIMITS, *places)
    assert done.returncode == 4, done.stderr
    first, last = ours(done.stderr)
    found = re.fullmatch(r"failed: broken / minieval / s0 model\.path=(\S+) / seed 0,1: (.*); rerun: (.*)", first)
    assert found, first
    assert found[1] == str(broken)
    assert "transformers cannot load it" in found[2]
    assert last == "1 failure(s) in 2 cell(s); finished records are kept"
    failed = sorted((folder / "records").glob("*failed*.json"))
    assert [read_record(p).status for p in failed] == ["failed", "failed"]
    assert [read_record(p).seed for p in failed] == [0, 1]
    assert "transformers cannot load it" in str(read_record(failed[0]).error)
    assert len(list((folder / "records").glob("*.json"))) == 4
    # the good cell is the same as ever
    trial = check_sweep.Trial(folder, [])
    assert (
        trial.fingerprints().items()
        >= {k: v for k, v in undisturbed.fingerprints.items() if k in trial.fingerprints()}.items()
    )
    shutil.rmtree(broken)
    shutil.copytree(good, broken)
    again = run(*shlex.split(found[3])[2:])
    assert again.returncode == 0, again.stderr
    assert "2 record(s)" in again.stdout
    assert not list((folder / "records").glob("*failed*")), "a success takes the place of the failure"


def test_one_bad_seed_does_not_cost_the_others(tmp_path: Path, undisturbed: Undisturbed) -> None:
    shutil.copytree(undisturbed.trial.folder, tmp_path / "work")
    folder = tmp_path / "work"
    (torn,) = (p for p in (folder / "records").glob("*seed1*.json") if read_record(p).alpha == 0.03)
    torn.write_text(torn.read_text()[:100])
    places = [f"store={folder / 'store'}", f"records={folder / 'records'}", f"out={folder / 'out'}"]
    done = run("method.alpha=0.03", "seed=0..2", *check_sweep.LIMITS, *places)
    assert done.returncode == 4, done.stderr
    first, _ = ours(done.stderr)
    assert "/ seed 1: " in first
    assert torn.name in first
    assert first.endswith("seed=1")
    (new,) = (p for p in (folder / "records").glob("*seed2*.json"))
    assert read_record(new).status in ("ok", "no_solutions")
    torn.unlink()
    again = run(*shlex.split(first.partition("rerun: ")[2])[2:])
    assert again.returncode == 0, again.stderr
    assert check_sweep.Trial(folder, []).fingerprints().items() >= undisturbed.fingerprints.items()


def test_a_read_only_or_full_store_is_one_line_and_exit_code_two(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        places = [f"store={disk / 'store'}", f"records={disk / 'records'}", f"out={tmp_path / 'out'}"]
        done = run("seed=0", *check_sweep.LIMITS, *places)
        assert done.returncode == 2, done.stderr  # said before anything runs
        assert "0 MiB free" in ours(done.stderr)[0]
        assert len(ours(done.stderr)) == 1
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = run("seed=0", *check_sweep.LIMITS, *places)
        assert done.returncode == 2, done.stderr
        assert "cannot be written" in ours(done.stderr)[0]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_no_verified_solution_is_a_record_one_line_per_seed_and_exit_code_three(tmp_path: Path) -> None:
    places = [f"store={tmp_path / 'store'}", f"records={tmp_path / 'records'}", f"out={tmp_path / 'out'}"]
    limits = [o for o in check_sweep.LIMITS if "max_new_tokens" not in o]
    done = run("seed=0..1", *limits, "task.max_new_tokens=1", *places)
    assert done.returncode == 3, done.stderr
    assert len(ours(done.stderr)) == 2
    assert all(line.startswith("no training solution: tiny_gdn / minieval / seed ") for line in ours(done.stderr))
    assert [read_record(p).status for p in (tmp_path / "records").glob("*.json")] == ["no_solutions"] * 2


def test_a_model_that_s0_cannot_adapt_is_one_failure_not_one_per_seed(tmp_path: Path) -> None:
    places = [f"store={tmp_path / 'store'}", f"records={tmp_path / 'records'}", f"out={tmp_path / 'out'}"]
    done = run("model=tiny_transformer", "method=s0", "seed=0..1", *check_sweep.LIMITS, *places)
    assert done.returncode == 1, done.stderr
    first, last = ours(done.stderr)
    assert first.startswith("failed: tiny_transformer / minieval / s0 / seed 0,1: ")
    assert "rerun: python run.py model=tiny_transformer" in first
    assert last.startswith("1 failure(s) in 1 cell(s)")
