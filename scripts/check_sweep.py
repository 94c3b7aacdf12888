"""Proof that a sweep ends with the same records however it is run: undisturbed, killed, by workers, on Ray, on SLURM.

python scripts/check_sweep.py                                 5 alphas x 10 seeds, every way, at the limits below
python scripts/check_sweep.py --ways killed workers --seeds 0..1 --alphas 0.1,0.3
python scripts/check_sweep.py --full                          without limits: the benchmark as it is (long)

Prints one line per way and exits 1 if any record differs. Ways that this machine cannot do (no Ray, no SLURM, not root)
are named and skipped.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from s0.runtime.extras import install_line
from s0.storage.records import find_records, fingerprint, read_record

ROOT = Path(__file__).resolve().parent.parent
LIMITS = [
    "task.n_train=8",
    "task.n_eval=6",
    "task.samples_per_problem=8",
    "task.max_new_tokens=40",
    "method.n_steps=6",
]
#: equal records need an equal number of threads (sums are split differently); snapshots at every step, to be killed after
ALWAYS = ["engine.threads=1", "train.snapshot_s=0"]
LIMITS += ALWAYS
SLURM = [
    "hydra/launcher=submitit_slurm",
    "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=null",
    "hydra.launcher.array_parallelism=2",
]
RAY = ["hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2", "hydra.launcher.ray.remote.num_gpus=0"]


class Trial:
    """One way of running the sweep, in a folder of its own."""

    def __init__(self, folder: Path, sweep: list[str]):
        self.folder, self.sweep = folder, sweep

    def start(self, *extra: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        f = self.folder
        places = [
            f"store={f / 'store'}",
            f"records={f / 'records'}",
            f"out={f / 'out'}",
            f"hydra.sweep.dir={f / 'hydra'}",
        ]
        return subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), "-m", *self.sweep, *places, *extra],
            stdout=open(f / "stdout", "a"),
            stderr=open(f / "stderr", "a"),
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
            start_new_session=True,
        )

    def finish(self, *extra: str, env: dict[str, str] | None = None) -> dict[str, str]:
        """Run to the end; fingerprints by record file name."""
        process = self.start(*extra, env=env)
        if process.wait():
            raise SystemExit(
                f"{self.folder.name}: exit code {process.returncode}\n{(self.folder / 'stderr').read_text()}"
            )
        return self.fingerprints()

    def fingerprints(self) -> dict[str, str]:
        return {p.name: fingerprint(read_record(p)) for p in find_records([self.folder / "records"])}

    def kill_when(self, reached: Callable[[], bool]) -> None:
        """Start the command and kill -9 its main process alone as soon as `reached` (its children must end by themselves)."""
        process = self.start()
        while not reached():
            if process.poll() is not None:
                raise SystemExit(f"{self.folder.name}: ended with {process.returncode} before it could be killed")
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def lines(self) -> dict[Path, bytes]:
        """What the append-only logs hold now."""
        return {p: p.read_bytes() for p in (self.folder / "store").glob("*/*.jsonl")}


def killed(trial: Trial) -> dict[str, str]:
    """kill -9 while sampling, while training, while evaluating; then the same command once more."""
    store = trial.folder / "store"
    trial.kill_when(lambda: any(p.stat().st_size for p in store.glob("completions/*.jsonl")))
    sampled = trial.lines()
    trial.kill_when(lambda: any(store.glob("partial/*.pt")))
    trained_before = set(store.glob("adapters-*/*"))
    assert not trained_before, "training was over before it could be killed"
    known = set(store.glob("completions/*.jsonl"))
    trial.kill_when(lambda: len(set(store.glob("completions/*.jsonl")) - known) > 0)
    adapters = {p: p.stat().st_mtime_ns for p in store.glob("adapters-*/*/*")}
    assert adapters, "evaluation began without a trained state"
    assert not (trial.folder / "records").exists(), "the sweep was over before it could be killed"
    result = trial.finish()
    after = trial.lines()
    assert all(after[p].startswith(_whole_lines(data)) for p, data in sampled.items()), "stored answers were changed"
    assert all(p.stat().st_mtime_ns == t for p, t in adapters.items()), "a trained state was trained again"
    return result


def _whole_lines(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]


def workers(trial: Trial) -> dict[str, str]:
    return trial.finish("workers=2")


def ray(trial: Trial) -> dict[str, str]:
    return trial.finish(*RAY)


def slurm(trial: Trial) -> dict[str, str]:
    """One job is cancelled while it runs, and requeued."""
    with one_node_slurm() as conf:
        env = {"SLURM_CONF": str(conf)}
        process = trial.start(*SLURM, env=env)
        requeue_one(trial, env)
        while process.poll() is None:
            release(env)
            time.sleep(0.3)
        if process.returncode:
            raise SystemExit(f"slurm: exit code {process.returncode}\n{(trial.folder / 'stderr').read_text()}")
        starts = sum(
            p.read_text(errors="replace").count("Starting with JobEnvironment")
            for p in (trial.folder / "hydra").rglob("*_log.out")
        )
        jobs = len(list((trial.folder / "hydra" / ".submitit").glob("[0-9]*_[0-9]*")))
        assert starts > jobs, f"no job was started again ({starts} starts of {jobs} jobs)"
    return trial.fingerprints()


def requeue_one(trial: Trial, env: dict[str, str]) -> None:
    """Cancel and requeue the first job that has begun, as a preemption would."""
    end = time.monotonic() + 120
    while not (begun := [p for p in trial.folder.rglob("*_log.out") if b"Starting with" in p.read_bytes()]):
        if time.monotonic() > end:
            raise SystemExit("slurm: no job began within two minutes")
        time.sleep(0.01)
    _slurm(env, "scontrol", "requeue", begun[0].parent.name)


def release(env: dict[str, str]) -> None:
    """SLURM lets a requeued job wait two minutes; start it now."""
    for job in _slurm(env, "squeue", "-h", "-r", "-t", "PD", "-o", "%F_%K").split():
        subprocess.run(
            ["scontrol", "update", f"jobid={job}", "StartTime=now"], env={**os.environ, **env}, capture_output=True
        )


def _slurm(env: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=True).stdout


@contextmanager
def one_node_slurm() -> Iterator[Path]:
    """SLURM_CONF of a SLURM of one node, for the duration of the context."""
    folder = tempfile.mkdtemp(prefix="sl", dir="/tmp")  # short: it holds sockets
    script = str(ROOT / "scripts" / "slurm_one_node.sh")
    try:
        subprocess.run([script, "start", folder], check=True)
        yield Path(folder) / "slurm.conf"
    finally:
        subprocess.run([script, "stop", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def missing(way: str) -> str:
    """Why this machine cannot do it, or ""."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if way == "ray" and not importlib.util.find_spec("hydra_plugins.hydra_ray_launcher"):
        return f"hydra-ray-launcher is not installed ({install_line('ray')})"
    if way == "slurm" and not importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher"):
        return f"hydra-submitit-launcher is not installed ({install_line('slurm')})"
    if way == "slurm" and not all(shutil.which(p, path=path) for p in ("munged", "slurmctld", "slurmd", "sbatch")):
        return "SLURM is not installed (apt-get install slurm-wlm munge)"
    if way == "slurm" and os.geteuid() != 0:
        return "starting a SLURM needs root"
    return ""


WAYS: dict[str, Callable[[Trial], dict[str, str]]] = {"killed": killed, "workers": workers, "ray": ray, "slurm": slurm}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--alphas", default="0.03,0.05,0.07,0.1,0.15")
    parser.add_argument("--seeds", default="0..9")
    parser.add_argument("--full", action="store_true", help="no limits")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder, removed at the end)")
    options = parser.parse_args()
    sweep = [f"method.alpha={options.alphas}", f"seed={options.seeds}", *(ALWAYS if options.full else LIMITS)]
    folder = options.folder or Path(tempfile.mkdtemp(prefix="check_sweep"))
    wrong = 0
    try:
        start = time.monotonic()
        expected = Trial(folder / "undisturbed", sweep).finish()
        print(f"undisturbed: {len(expected)} records, {time.monotonic() - start:.0f} s", flush=True)
        for way in options.ways:
            if reason := missing(way):
                print(f"{way}: skipped, {reason}", flush=True)
                continue
            start = time.monotonic()
            found = WAYS[way](Trial(folder / way, sweep))
            different = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
            wrong += bool(different)
            verdict = "equal" if not different else f"{len(different)} DIFFER: {', '.join(different[:3])}"
            print(f"{way}: {len(found)} records, {verdict}, {time.monotonic() - start:.0f} s", flush=True)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
