"""The published procedure, implemented plainly: the baseline that benchmarks and tests compare with.

    python scripts/published_procedure.py --seed 0        # prints seconds per stage and pass@1

One example at a time in training, one problem at a time in generation (`model.generate`), one plain subprocess per check
with exit code 0 as the verdict. Only the injection is this project's, because the public library's no longer reaches
current transformers; everything is batch size 1, so padding does not arise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as run.py does, before torch is loaded

import torch
import torch.nn.functional as F

from s0.config.schema import ModelConfig
from s0.data import Example, Problem
from s0.experiment.checkpoint import Checkpoint
from s0.state.cache import TrainingCache
from s0.state.families import Layout, describe
from s0.state.initial import InitialState
from s0.state.inject import Injection
from s0.tasks import make_task


def train_one_by_one(
    model: Any,
    layout: Layout,
    examples: Sequence[Example],
    n_steps: int = 20,
    lr: float = 1e-3,
    l2: float = 5e-4,
    clip: float = 1.0,
) -> InitialState:
    """Paper, section 3: per step every solution by itself, gradients averaged, torch's own Adam and clipping."""
    states = {i: torch.zeros(1, *layout.shapes[i], requires_grad=True) for i in layout.layers}
    optimiser = torch.optim.Adam(list(states.values()), lr=lr)
    for p in model.parameters():
        p.requires_grad_(False)
    for _ in range(n_steps):
        optimiser.zero_grad()
        for e in examples:
            ids = torch.tensor([e.prompt_ids + e.completion_ids])
            logits = model(input_ids=ids, past_key_values=TrainingCache(layout, states), use_cache=True).logits[0]
            predicted = logits[len(e.prompt_ids) - 1 : -1].float()
            (F.cross_entropy(predicted, torch.tensor(e.completion_ids)) / len(examples)).backward()
        (l2 * sum(s.square().sum() for s in states.values())).backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(list(states.values()), clip)
        optimiser.step()
    return InitialState({i: s.detach()[0] for i, s in states.items()}, layout.architecture)


def passes(problem: Problem, completion: str, timeout_s: float = 3.0) -> bool:
    """Exit code 0 of a plain subprocess: what many evaluations do, and what the sandbox exists to avoid."""
    entry = problem.meta["entry_point"]
    program = f"{problem.prompt}{completion}\n{problem.reference}\ncheck({entry})\n"
    with tempfile.NamedTemporaryFile("w", suffix=".py") as f:
        f.write(program)
        f.flush()
        try:
            return subprocess.run([sys.executable, f.name], capture_output=True, timeout=timeout_s).returncode == 0
        except subprocess.TimeoutExpired:
            return False


def generate(model: Any, tokenizer: Any, ids: list[int], max_new: int, n: int = 1, T: float = 0.0) -> list[list[int]]:
    inputs = torch.tensor([ids])
    kwargs: dict[str, Any] = {"do_sample": False}
    if T > 0:
        kwargs = {"do_sample": True, "temperature": T, "top_p": 0.95, "top_k": 0, "num_return_sequences": n}
    with torch.no_grad():
        out = model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=max_new,
            pad_token_id=tokenizer.pad_token_id,
            **kwargs,
        )
    return [row[len(ids) :].tolist() for row in out]


def run_seed(checkpoint: Checkpoint, task: Any, settings: dict[str, Any], seed: int, alpha: float) -> dict[str, Any]:
    """One seed, start to end: sample, verify, train, evaluate base and tuned. Returns seconds per stage and accuracies."""
    model, tokenizer, layout = checkpoint.model, checkpoint.tokenizer, describe(checkpoint.model)
    torch.manual_seed(seed)
    train, heldout = task.problems("train"), task.problems("heldout")
    end = set(
        model.generation_config.eos_token_id
        if isinstance(model.generation_config.eos_token_id, list)
        else [model.generation_config.eos_token_id]
    )
    wall: dict[str, float] = {}

    def timed(name: str, start: float) -> None:
        wall[name] = time.perf_counter() - start

    def text(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)

    def cut(ids: list[int]) -> list[int]:
        return next((ids[: n + 1] for n, t in enumerate(ids) if t in end), ids)

    prompts = {p.id: checkpoint.prompt_ids(task.messages(p)) for p in [*train, *heldout]}
    n, T, most = settings["samples_per_problem"], settings["temperature"], settings["max_new_tokens"]
    start = time.perf_counter()
    samples = {p.id: [cut(g) for g in generate(model, tokenizer, prompts[p.id], most, n, T)] for p in train}
    timed("sample", start)
    start = time.perf_counter()
    examples = []
    for p in train:
        good = [g for g in samples[p.id] if passes(p, task.clean(p, text(g)))]
        if good:
            examples.append(Example(p.id, prompts[p.id], good[0]))
    timed("verify", start)
    start = time.perf_counter()
    state = train_one_by_one(model, layout, examples).replace(alpha=alpha)
    timed("train", start)
    scores = {}
    for name, injected in (("base", None), ("tuned", state)):
        start = time.perf_counter()
        solved = 0
        for p in heldout:
            if injected is None:
                (g,) = generate(model, tokenizer, prompts[p.id], most)
            else:
                with Injection(model, layout, injected):
                    (g,) = generate(model, tokenizer, prompts[p.id], most)
            solved += passes(p, task.clean(p, text(cut(g))))
        scores[name] = solved / len(heldout)
        timed(f"evaluate {name}", start)
    return {"wall_s": wall, "total_s": sum(wall.values()), "n_solutions": len(examples), **scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:tiny_gdn")
    parser.add_argument("--task", default="minieval")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alpha", type=float, default=0.45)
    args = parser.parse_args()
    settings = {"samples_per_problem": 16, "temperature": 0.7, "max_new_tokens": 512}
    result = run_seed(
        Checkpoint(ModelConfig(path=args.model)), make_task(args.task, {}), settings, args.seed, args.alpha
    )
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
