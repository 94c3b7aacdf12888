"""Cells that differ only in how they train are learned in one fit, and each gets what it would have got by itself."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from sweeps import check_sweep

import s0.experiment.learn
import s0.methods.base
import s0.sweep.joint
import s0.training.fit
from s0.cli.compose import make_plan, parse_args
from s0.storage.records import read_record
from s0.storage.store import Store
from s0.sweep.ledger import Sweep
from s0.sweep.plan import Planned
from s0.sweep.work import work

LIMITS = [
    "task.n_train=8",
    "task.n_eval=4",
    "task.samples_per_problem=4",
    "task.max_new_tokens=48",
    "method.n_steps=6",
    "engine.threads=1",
]
S0 = ["seed=0,[1,4]", "method.control=false"]


def plan(folder: Path, *overrides: str) -> list[Planned]:
    places = [f"{k}={folder / k}" for k in ("store", "records", "out")]
    return make_plan(parse_args(["-m", *LIMITS, *overrides, *places])).cells


class Fits:
    """How many jobs each call of fit_states got, and whether it went on from a snapshot; `at` a step, `stop` is raised."""

    def __init__(self) -> None:
        self.jobs: list[int] = []
        self.resumed: list[bool] = []
        self.at, self.stop = 0, KeyboardInterrupt

    def __call__(self, model: Any, layout: Any, jobs: list[Any], **kwargs: Any) -> Any:
        self.jobs.append(len(jobs))
        self.resumed.append(kwargs["resume"] is not None)
        hook = kwargs["on_step"]

        def on_step(step: int, snapshot: Any) -> None:
            hook(step, snapshot)
            if step == self.at:
                self.at = 0
                raise self.stop

        return s0.training.fit.fit_states(model, layout, jobs, **{**kwargs, "on_step": on_step})


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    spy = Fits()
    monkeypatch.setattr(s0.methods.base, "fit_states", spy)
    return spy


def run(cells: list[Planned]) -> list[Any]:
    """Outcomes of the cells, worked through in this process."""
    sweep = Sweep()
    work(cells, sweep)
    return [sweep.get(n) for n in range(len(cells))]


def adapters(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {
        str(p.relative_to(folder)): safetensors.torch.load_file(p)
        for p in sorted((folder / "store").glob("adapters-*/*/*.safetensors"))
    }


def assert_same_states(ours: Path, theirs: Path) -> None:
    a, b = adapters(ours), adapters(theirs)
    assert a
    assert a.keys() == b.keys()
    for name, tensors in a.items():
        assert tensors.keys() == b[name].keys()
        for layer, t in tensors.items():
            assert torch.equal(t, b[name][layer]), (name, layer)


def assert_same_records(ours: Path, theirs: Path) -> None:
    """Equal names (they hold the record keys), alphas, losses and answers."""
    names = sorted(p.name for p in (ours / "records").glob("*.json"))
    assert names == sorted(p.name for p in (theirs / "records").glob("*.json"))
    for name in names:
        a, b = read_record(ours / "records" / name), read_record(theirs / "records" / name)
        assert (a.key, a.status, a.alpha, a.training.alpha_scores) == (
            b.key,
            b.status,
            b.alpha,
            b.training.alpha_scores,
        )
        assert a.training.losses == b.training.losses
        assert a.training.grad_norms == b.training.grad_norms
        assert a.tuned is not None
        assert b.tuned is not None
        assert [o.completion for o in a.tuned.outcomes] == [o.completion for o in b.tuned.outcomes]


def alone(folder: Path, samples: Path, cells: list[Planned]) -> None:
    """Run the cells one command each; the answers sampled before are reused, as they do not depend on training."""
    for kind in ("completions", "verdicts"):
        shutil.copytree(samples / "store" / kind, folder / "store" / kind)
    for cell in cells:
        run([cell])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "cells", "jobs"),
    [
        # a seed or two, learning rates, layers, folds of alpha=auto: (1 + 2) seeds x 3 x 2 x 2
        (["model=tiny_gdn", "method.lr=1e-3,3e-3", "method.layers=all,[0]", "method.alpha=auto", *S0], 8, 36),
        (["model=tiny_mamba2", "method.lr=1e-3,3e-3", "method.layers=all,late", "method.alpha=0.5", *S0], 8, 12),
        # alphas inside training, normalised or not, and what else may differ from job to job
        (
            ["method.alpha_placement=inside", "method.alpha=0.3,1.0", "method.normalize=true,false", *S0],
            8,
            12,
        ),
        (
            ["method.l2_lambda=0,1e-2", "method.grad_clip=0,1e-3", "method.n_solutions=2,3", "method.alpha=1", *S0],
            16,
            24,
        ),
        (["method.rank=2", "method.lr=1e-3,3e-3", "method.max_length=150,2048", "method.alpha=1", "seed=0"], 4, 4),
        (["method=state_offset", "method.lr=5e-4,1e-3", "method.layers=all,[0]", "seed=0..1"], 4, 8),
    ],
)
def test_swept_together_equals_separately(
    overrides: list[str], cells: int, jobs: int, tmp_path: Path, fits: Fits
) -> None:
    swept = plan(tmp_path / "together", *overrides)
    assert len(swept) == cells
    assert all(o is not None and not o.failures for o in run(swept))
    assert fits.jobs == [jobs], "everything in one fit"
    assert len(adapters(tmp_path / "together")) == jobs
    fits.jobs.clear()
    separate = plan(tmp_path / "alone", *overrides)
    alone(tmp_path / "alone", tmp_path / "together", separate)
    assert len(fits.jobs) == cells
    assert_same_states(tmp_path / "together", tmp_path / "alone")
    assert_same_records(tmp_path / "together", tmp_path / "alone")
    # and nothing is trained twice
    fits.jobs.clear()
    shutil.rmtree(tmp_path / "together" / "records")
    run(swept)
    assert fits.jobs == []


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of four cells, all in one fit: what the tests below compare with, and answers to begin with."""
    folder = tmp_path_factory.mktemp("sampled")
    assert not any(o.failures for o in run(plan(folder, *RATES)))
    return folder


RATES = ["method.lr=1e-3,2e-3,3e-3,4e-3", "method.alpha=0.3", "method.control=false", "seed=0..1"]


@pytest.fixture
def folder(sampled: Path, tmp_path: Path) -> Path:
    """A folder with the answers of `sampled`, and none of its states."""
    for kind in ("completions", "verdicts"):
        shutil.copytree(sampled / "store" / kind, tmp_path / "store" / kind)
    return tmp_path


@pytest.mark.slow
def test_a_cell_that_cannot_be_trained_leaves_the_others_together(folder: Path, sampled: Path, fits: Fits) -> None:
    good, bad = plan(folder, *RATES[1:], "method.lr=1e-3,2e-3"), plan(folder, *RATES[1:], "method.layers=[1,99]")
    *fine, failed = run([*good, *bad])
    assert fits.jobs == [4], "two seeds of each good cell"
    assert not any(o.failures for o in fine)
    assert re.search(r"layers=\[1, 99\]", failed.failures[0].message)
    assert failed.failures[0].seeds == [0, 1]


@pytest.mark.slow
def test_a_training_that_fails_half_way_costs_only_its_own_cell(
    folder: Path, sampled: Path, fits: Fits, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = plan(folder, *RATES[1:], "method.lr=1e-3,1e38,2e-3", "train.snapshot_s=0")
    first, failed, last = run(cells)
    assert "training 3 cells together failed (training job" in capsys.readouterr().out
    assert fits.jobs[:2] == [6, 2]
    assert fits.jobs[-1] == 2
    assert len(first.records) == len(last.records) == 2
    assert "gradient is not finite" in failed.failures[0].message
    ours = adapters(folder)
    assert len(ours) == 4
    theirs = adapters(sampled)
    for name, tensors in ours.items():
        for layer, t in tensors.items():
            assert torch.equal(t, theirs[name][layer])


@pytest.mark.slow
def test_cells_that_took_processes_down_together_are_run_one_by_one(
    folder: Path, sampled: Path, fits: Fits, tmp_path: Path
) -> None:
    cells = plan(folder, *RATES[1:], "method.lr=1e-3,2e-3")
    sweep = Sweep.create(tmp_path / "sweep", cells)
    for _ in range(2):
        sweep.attempt(0, "together")
    work(cells, sweep, max_attempts=3)
    assert fits.jobs == [2, 2]
    assert [len(o.records) for n in range(2) if (o := sweep.get(n))] == [2, 2]


@pytest.mark.slow
def test_interrupted_training_goes_on_from_its_snapshot(folder: Path, sampled: Path, fits: Fits) -> None:
    fits.at = 4
    with pytest.raises(KeyboardInterrupt):
        run(plan(folder, *RATES, "train.snapshot_s=0"))
    assert len(list((folder / "store" / "partial").glob("*.pt"))) == 1
    assert not adapters(folder)
    assert not any(o.failures for o in run(plan(folder, *RATES, "train.snapshot_s=0")))
    assert fits.jobs == [8, 8]
    assert fits.resumed == [False, True]
    ours, theirs = adapters(folder), adapters(sampled)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(t, theirs[name][i]) for name, tensors in ours.items() for i, t in tensors.items())
    assert not list((folder / "store" / "partial").iterdir())


@pytest.mark.slow
def test_many_trainings_are_split_into_fits_of_bounded_size(
    folder: Path, sampled: Path, fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s0.experiment.learn, "FUSED", 3)
    assert not any(o.failures for o in run(plan(folder, *RATES)))
    assert fits.jobs == [3, 3, 2]
    assert_same_states(folder, sampled)


@pytest.mark.slow
def test_trainings_that_another_process_holds_are_left_to_it(
    folder: Path, sampled: Path, fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is free is learned; then the holder is waited for, and what it did not store is learned here."""
    held = sorted(p.name for p in (sampled / "store" / "adapters-s0").iterdir())[2:5]
    store = Store(folder / "store")
    with contextlib.ExitStack() as other:
        for key in held:
            other.enter_context(store.claim(f"fit-{key}"))
        spy, calls = s0.methods.base.fit_states, []

        def fit(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            results = spy(*args, **kwargs)
            if len(calls) == 1:
                shutil.copytree(sampled / "store" / "adapters-s0" / held[0], folder / "store" / "adapters-s0" / held[0])
                other.close()
            return results

        monkeypatch.setattr(s0.methods.base, "fit_states", fit)
        assert not any(o.failures for o in run(plan(folder, *RATES)))
    assert fits.jobs == [5, 2]
    assert_same_states(folder, sampled)


@pytest.mark.parametrize(
    ("overrides", "processes", "expected"),
    [
        (["method.lr=1e-3,2e-3,3e-3"], 1, [[0, 1, 2]]),
        (["method.lr=1e-3,2e-3,3e-3,4e-3"], 2, [[0, 1], [2, 3]]),
        (["method.lr=1e-3,2e-3"], 2, [[0], [1]]),
        (["method.alpha=0.1,0.2,0.3"], 1, [[0], [1], [2]]),
        (["method.lr=1e-3,2e-3", "method.alpha=0.1,0.2"], 1, [[0, 1, 2, 3]]),
        (["method.alpha_placement=inside", "method.alpha=0.1,0.2"], 1, [[0, 1]]),
        (["method.n_steps=3,4", "method.lr=1e-3,2e-3"], 1, [[0, 1], [2, 3]]),
        (["method.lr=1e-3,2e-3", "method.rank=0,2"], 1, [[0, 2], [1, 3]]),
        (["method.lr=1e-3,2e-3", "model=tiny_gdn,tiny_mamba2"], 1, [[0, 2], [1, 3]]),
        (["method.lr=1e-3,2e-3", "task.temperature=0.5,0.7"], 1, [[0, 2], [1, 3]]),
        (["seed=[0,1],[2,3]"], 1, [[0, 1]]),
        (["method.n_solutions=2,3"], 1, [[0, 1]]),
        (["method=lora", "method.lr=1e-3,2e-3"], 1, [[0], [1]]),
        (["method=s0,state_offset", "method.lr=1e-3,2e-3"], 1, [[0, 1], [2, 3]]),
        (["method=state_offset", "method.mode=accumulate,readout"], 1, [[0], [1]]),
        # three trainings per seed with alpha=auto, at most 64 in a fit: 3 x 10 x 5 cells
        (["method.lr=1e-3,2e-3,3e-3,4e-3,5e-3", "method.alpha=auto", "seed=0..9"], 1, [[0, 1], [2, 3], [4]]),
        (["method.lr=1e-3,2e-3", "method.alpha=auto", "seed=0..99"], 1, [[0], [1]]),
    ],
)
def test_which_cells_train_together(
    overrides: list[str], processes: int, expected: list[list[int]], tmp_path: Path
) -> None:
    cells = plan(tmp_path, *overrides)
    assert s0.sweep.joint.groups(cells, range(len(cells)), processes) == expected


# -- processes ---------------------------------------------------------------------------------------------------------

SWEEP = ["method.lr=1e-3,3e-3", "method.alpha=0.3", "method.control=false", "seed=0..1", *check_sweep.LIMITS]


@pytest.fixture(scope="module")
def undisturbed_rates(tmp_path_factory: pytest.TempPathFactory) -> Any:
    trial = check_sweep.Trial(tmp_path_factory.mktemp("rates") / "undisturbed", SWEEP)
    trial.finish()
    assert trained(trial) == [4]
    return trial


def trained(*trials: Any) -> list[int]:
    """Sizes of the fits that came to their end, from the last line of each bar."""
    text = "".join((t.folder / "stdout").read_text() for t in trials)
    return [
        int(n) for n in re.findall(r"train s0(?:, \d settings,)? x(\d+): 6/6 steps in [\d.]+ s \([\d.]+/s, mean", text)
    ]


@pytest.mark.slow
def test_killed_anywhere_the_records_are_the_same(undisturbed_rates: Any, tmp_path: Path) -> None:
    trial = check_sweep.Trial(tmp_path / "killed", SWEEP)
    assert check_sweep.killed(trial) == undisturbed_rates.fingerprints()


@pytest.mark.slow
def test_two_commands_at_once_train_everything_once(undisturbed_rates: Any, tmp_path: Path) -> None:
    one, two = (check_sweep.Trial(tmp_path / name, SWEEP) for name in ("one", "two"))
    two.folder.mkdir()
    places = [f"store={one.folder / 'store'}", f"records={one.folder / 'records'}"]
    processes = [one.start(), two.start(*places)]
    assert [p.wait() for p in processes] == [0, 0]
    assert sum(trained(one, two)) == 4
    assert_same_states(one.folder, undisturbed_rates.folder)
    assert one.fingerprints().keys() == undisturbed_rates.fingerprints().keys()


@pytest.mark.slow
def test_workers_share_the_trainings(undisturbed_rates: Any, tmp_path: Path) -> None:
    trial = check_sweep.Trial(tmp_path / "workers", SWEEP)
    assert trial.finish("workers=2").keys() == undisturbed_rates.fingerprints().keys()
    assert sum(trained(trial)) == 4
    assert_same_states(trial.folder, undisturbed_rates.folder)
