"""Several task states answer in one batch on one model: python scripts/many_states.py

Learns four states on the embedded model, all in the same training batches, one for each way of answering it knows
(code, explanation, fenced code, stub). Then every prompt is asked four times in one batch, each row under another state,
and a fifth time without any. At the end the cost of a decoding step is compared with the base model's in the same run.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from s0.bank import StateBank
from s0.data import Example
from s0.errors import ConfigError, S0Error
from s0.runtime.chat import prompt_ids
from s0.tiny import benchmark, models
from s0.tiny.grammar import MODES, Answer, Request, sample_answer
from s0.training.jobs import FitConfig

TASKS = {"body": "code", "prose": "explain", "fence": "fenced code", "stub": "stub"}


def chat(request: Request) -> list[dict[str, str]]:
    return [{"role": "user", "content": request.prompt}]


def answer_in(mode: str, request: Request, rng: random.Random) -> Answer:
    """An answer of the grammar in the wanted mode, without the mistakes the corpus mixes in."""
    while True:
        answer = sample_answer(rng, request)
        if answer.mode == mode and answer.program == request.program and not any(answer.habits):
            return answer


def examples(tokenizer, mode: str, requests: list[Request]) -> list[Example]:
    rng = random.Random(0)
    rows = []
    for n, request in enumerate(requests):
        completion = [*tokenizer(answer_in(mode, request, rng).text).input_ids, tokenizer.eos_token_id]
        rows.append(Example(str(n), prompt_ids(tokenizer, chat(request)), completion))
    return rows


def seconds(call: Callable[[], object]) -> float:
    """Processor seconds (the embedded models run on the CPU): other programs on the machine do not count."""
    start = time.process_time()
    call()
    return time.process_time() - start


def cost_ratios(bank: StateBank, names: list[str], rows: int, tokens: int, repeats: int) -> list[float]:
    """Time of decoding `tokens` tokens in `rows` rows with a state each, relative to the base model without any of
    this library in the way; both alternate in the same run."""
    ids = torch.randint(3, 90, (rows, 16), generator=torch.Generator().manual_seed(0))
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": tokens, "min_new_tokens": tokens}
    options |= {"do_sample": False, "pad_token_id": 0}
    states = [names[r % len(names)] for r in range(rows)]
    with torch.no_grad():
        bank.generate(ids, states, **options)
        return [
            seconds(lambda: bank.generate(ids, states, **options))
            / seconds(lambda: bank.model.generate(ids, **options))
            for _ in range(repeats)
        ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny_gdn", help="embedded model (default: tiny_gdn)")
    parser.add_argument("--prompts", type=int, default=3, help="held-out prompts to ask (default: 3)")
    parser.add_argument("--train", type=int, default=16, help="training prompts per state, at most 80 (default: 16)")
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps (default: 20)")
    parser.add_argument("--repeats", type=int, default=7, help="repetitions of the cost measurement (default: 7)")
    args = parser.parse_args(argv)
    try:
        if not 1 <= args.train <= benchmark.N_TRAIN:
            raise ConfigError(f"--train {args.train}: must be between 1 and {benchmark.N_TRAIN}")
        torch.set_num_threads(1)
        folder = models.embedded_model(args.model)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        bank = StateBank(model, tokenizer)
        requests = benchmark.requests()
        train = {TASKS[mode]: examples(tokenizer, mode, requests[: args.train]) for mode in MODES}
        taken = seconds(lambda: bank.fit(train, FitConfig(n_steps=args.steps, lr=0.02, l2_lambda=0.0)))
        console = Console()
        console.print(f"{len(bank)} states of {bank.layout.n_parameters():,} numbers learned together in {taken:.1f} s")

        asked = requests[benchmark.N_TRAIN : benchmark.N_TRAIN + args.prompts]
        states = [*TASKS.values(), None]
        rows = [(request, state) for request in asked for state in states]
        answers = bank.generate(
            [chat(request) for request, _ in rows], [s for _, s in rows], max_new_tokens=64, do_sample=False
        )
        table = Table("prompt", "state", "answer", show_lines=True)
        for (request, state), answer in zip(rows, answers, strict=True):
            table.add_row(request.prompt.rstrip() if state == states[0] else "", state or "(none)", answer)
        console.print(table, markup=False)
        console.print(f"{len(rows)} rows in one batch")

        ratios = cost_ratios(bank, list(TASKS.values()), rows=16, tokens=64, repeats=args.repeats)
        console.print(
            f"decoding 16 rows with 4 different states: {statistics.median(ratios):.2f} x the base model's time "
            f"(median of {len(ratios)}, {min(ratios):.2f} to {max(ratios):.2f})"
        )
    except S0Error as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
