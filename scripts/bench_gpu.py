"""Benchmarks on a CUDA device at Qwen3.5-4B's shape, random weights: fractions of the device's own measured limits.

    make bench-gpu
    python scripts/bench_gpu.py --shape small --device cpu --parts decode,training     # the same code, anywhere

Parts: limits (copy bandwidth and bf16 matrix rate), decode (fraction of the bandwidth roofline by batch size), training
(fraction of the matrix rate), overhead (S0 on against off, 16 states against one, LoRA unmerged), experiment (time and
memory of the whole published HumanEval experiment: 80 x 16 samples, 20 steps, 84 problems, all seeds). Random weights
never end a turn, so completions have a fixed length, stated in the record. Shape: the public config of Qwen/Qwen3.5-4B
(hidden 2560, 32 layers 3:1, 16/4 heads x 256, 16/32 linear heads x 128, MLP 9216, vocabulary 248320, tied).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as run.py does, before torch is loaded

import torch

from s0.data import Example
from s0.engines.base import Request, request_seed
from s0.engines.hf import HFEngine
from s0.runtime.environment import git_state, versions
from s0.state.families import describe
from s0.state.initial import InitialState
from s0.storage.files import write_json
from s0.training.fit import fit_states
from s0.training.jobs import FitConfig, FitJob

SHAPES: dict[str, dict[str, Any]] = {
    "qwen35_4b": {
        "vocab_size": 248320,
        "hidden_size": 2560,
        "intermediate_size": 9216,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "tie_word_embeddings": True,
    },
    "small": {
        "vocab_size": 1024,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "tie_word_embeddings": True,
    },
}


class Spelling:
    """Random weights have no text; rows never end early."""

    eos_token_id = None

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return ""


class Bench:
    def __init__(self, args: argparse.Namespace):
        from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

        self.args, self.device = args, torch.device(args.device)
        self.cuda = self.device.type == "cuda"
        dtype = torch.bfloat16 if self.cuda else torch.float32
        torch.manual_seed(0)
        config = Qwen3_5TextConfig(**SHAPES[args.shape], eos_token_id=None, pad_token_id=0, dtype=dtype)
        with torch.device(self.device):
            default = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            try:
                self.model: Any = Qwen3_5ForCausalLM(config).eval()
            finally:
                torch.set_default_dtype(default)
        for p in self.model.parameters():
            p.requires_grad_(False)
        self.model.generation_config.eos_token_id = None
        self.layout = describe(self.model)
        self.n_parameters = sum(p.numel() for p in self.model.parameters())
        self.weight_bytes = sum(p.numel() * p.element_size() for p in self.model.parameters())
        self.bandwidth = self.matrix_rate = float("nan")

    def sync(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], Any]) -> float:
        """Median of the repeats after one run that is not counted."""
        run()
        times = []
        for _ in range(self.args.repeats):
            self.sync()
            start = time.perf_counter()
            run()
            self.sync()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def limits(self) -> dict[str, Any]:
        """Bytes per second of a large copy (read and written) and FLOP per second of a large bf16 product."""
        n = 1 << (30 if self.cuda else 26)
        a, b = (
            torch.empty(n, dtype=torch.uint8, device=self.device),
            torch.empty(n, dtype=torch.uint8, device=self.device),
        )
        self.bandwidth = 2 * n / self.seconds(lambda: b.copy_(a))
        m = 8192 if self.cuda else 1024
        x = torch.randn(m, m, device=self.device, dtype=torch.bfloat16 if self.cuda else torch.float32)
        self.matrix_rate = 2 * m**3 / self.seconds(lambda: x @ x)
        return {"copy_gb_s": self.bandwidth / 1e9, "matrix_tflops": self.matrix_rate / 1e12}

    def _prompts(self, n: int, length: int) -> list[tuple[int, ...]]:
        g = torch.Generator().manual_seed(1)
        vocabulary = SHAPES[self.args.shape]["vocab_size"]
        return [tuple(torch.randint(1, vocabulary, (length,), generator=g).tolist()) for _ in range(n)]

    def _rows(self, n: int, tokens: int, states: int) -> list[Request]:
        prompts = self._prompts(min(n, 16), self.args.prompt)
        return [Request(prompts[k % len(prompts)], tokens, (k % states) if states else None) for k in range(n)]

    def _decode_seconds(self, n: int, states: dict[Any, InitialState], model: Any = None) -> float:
        """Seconds of decode steps alone: the difference between a long and a short run cancels prefill and capture."""
        engine = HFEngine(max_slots=n)
        long, short = self.args.tokens, max(self.args.tokens // 8, 1)

        def run(tokens: int) -> float:
            requests = self._rows(n, tokens, len(states))
            return self.seconds(lambda: engine.all(model or self.model, Spelling(), requests, states))

        return (run(long) - run(short)) / (long - short)

    def decode(self) -> dict[str, Any]:
        """Time per step by batch size against the least time to move weights, states (read and written) and keys once."""
        if self.bandwidth != self.bandwidth:
            self.limits()
        out = {}
        config = self.layout.text_config
        kv = 2 * 2 * config.num_key_value_heads * config.head_dim * (len(config.layer_types) - len(self.layout.layers))
        for n in self.args.batches:
            step = self._decode_seconds(n, {})
            length = self.args.prompt + self.args.tokens // 2
            moved = self.weight_bytes + n * (2 * self.layout.bytes_per_row() + kv * length)
            out[f"batch_{n}"] = {
                "step_ms": step * 1e3,
                "tokens_per_s": n / step,
                "roofline_ms": moved / self.bandwidth * 1e3,
                "fraction_of_roofline": moved / self.bandwidth / step,
            }
        return out

    def _examples(self, n: int) -> list[Example]:
        rows = self._prompts(n, self.args.prompt + self.args.tokens)
        return [Example(str(k), list(r[: self.args.prompt]), list(r[self.args.prompt :])) for k, r in enumerate(rows)]

    def training(self) -> dict[str, Any]:
        """One optimiser step of all seeds: 4 x parameters x tokens (forward and input gradients) against the matrix rate."""
        if self.matrix_rate != self.matrix_rate:
            self.limits()
        examples = self._examples(self.args.solutions)
        jobs = [FitJob(examples, FitConfig(n_steps=1, seed=s)) for s in range(self.args.seeds)]
        run = lambda: fit_states(  # noqa: E731
            self.model, self.layout, jobs, token_budget=self.args.token_budget, checkpointing=self.args.checkpointing
        )
        step = self.seconds(run)
        tokens = sum(len(e.prompt_ids) + len(e.completion_ids) for e in examples) * self.args.seeds
        flops = 4 * self.n_parameters * tokens * (4 / 3 if self.args.checkpointing else 1)
        return {"step_s": step, "tokens": tokens, "fraction_of_matrix_rate": flops / self.matrix_rate / step}

    def overhead(self) -> dict[str, Any]:
        n = max(self.args.batches)
        states = {k: InitialState.random(self.layout, 0.5, k) for k in range(16)}
        off = self._decode_seconds(n, {})
        one = self._decode_seconds(n, {0: states[0]})
        many = self._decode_seconds(n, states)
        out = {"s0_on_over_off": one / off, "states_16_over_1": many / one}
        from peft import LoraConfig, get_peft_model

        targets = list(self.layout.family.lora_targets)
        adapted = get_peft_model(self.model, LoraConfig(r=24, lora_alpha=48, target_modules=targets))
        try:
            out["lora_unmerged_over_s0"] = self._decode_seconds(n, {}, adapted.base_model.model) / one
        finally:
            self.model = adapted.unload()
        return out

    def experiment(self) -> dict[str, Any]:
        """Sampling, training and evaluation of all seeds, end to end (verification runs on the CPU meanwhile)."""
        a = self.args
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        prompts = self._prompts(164, a.prompt)
        wall = {}

        def timed(name: str, run: Callable[[], Any]) -> Any:
            self.sync()
            start = time.perf_counter()
            value = run()
            self.sync()
            wall[name] = time.perf_counter() - start
            return value

        engine = HFEngine(max_slots=max(a.batches))
        sampling = [
            Request(p, a.tokens, None, 0.7, 0.95, request_seed(s, n, k))
            for s in range(a.seeds)
            for n, p in enumerate(prompts[:80])
            for k in range(16)
        ]
        timed("sample_s", lambda: engine.all(self.model, Spelling(), sampling))
        jobs = [FitJob(self._examples(a.solutions), FitConfig(n_steps=20, seed=s)) for s in range(a.seeds)]
        results = timed(
            "train_s",
            lambda: fit_states(
                self.model, self.layout, jobs, token_budget=a.token_budget, checkpointing=a.checkpointing
            ),
        )
        states = {s: r.state.replace(alpha=0.07) for s, r in enumerate(results)}
        rows = [Request(p, a.tokens, s) for s in [None, *states] for p in prompts[80:]]
        timed("evaluate_s", lambda: engine.all(self.model, Spelling(), rows, states))
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.cuda else float("nan")
        return {
            **wall,
            "total_s": sum(wall.values()),
            **({"peak_gib": memory} if self.cuda else {}),
            "completion_tokens": a.tokens,
            "rows": len(sampling) + len(rows),
        }


PARTS = {
    "limits": Bench.limits,
    "decode": Bench.decode,
    "training": Bench.training,
    "overhead": Bench.overhead,
    "experiment": Bench.experiment,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen35_4b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--batches", type=lambda s: [int(x) for x in s.split(",")], default=[16, 64, 256])
    parser.add_argument("--tokens", type=int, default=128, help="completion tokens")
    parser.add_argument("--prompt", type=int, default=192, help="prompt tokens")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--solutions", type=int, default=48)
    parser.add_argument("--token-budget", type=int, default=16384)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("experiments/bench"))
    args = parser.parse_args()
    chosen = args.parts.split(",")
    unknown = [p for p in chosen if p not in PARTS]
    if unknown:
        parser.error(f"--parts {','.join(unknown)}: choose among {', '.join(PARTS)}")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no CUDA device here; run on a GPU machine, or --device cpu --shape small to try the code")
    bench = Bench(args)
    name = torch.cuda.get_device_name() if bench.cuda else "cpu"
    results: dict[str, Any] = {}
    path = args.out / f"{name.lower().replace(' ', '_')}_{args.shape}.json"
    for part in chosen:
        print(f"{part} ...", flush=True)
        results[part] = PARTS[part](bench)
        print(f"  {results[part]}", flush=True)
        write_json(
            path,
            {
                "command": "python scripts/bench_gpu.py " + " ".join(sys.argv[1:]),
                "device": name,
                "settings": {k: str(v) for k, v in vars(args).items()},
                "n_parameters": bench.n_parameters,
                "versions": versions(),
                **git_state(),
                "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "results": results,
            },
        )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
