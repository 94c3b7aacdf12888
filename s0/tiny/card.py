"""Writing and checking an embedded model's folder: weights, tokenizer, `card.json` and MODEL_CARD.md."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from transformers import GenerationConfig

from s0.errors import DataError
from s0.storage.files import write_json, write_text
from s0.tiny import benchmark, corpus, models, tokenizer
from s0.tiny.pretrain import Recipe, Run, pretrain

RECIPES = {
    "tiny_gdn": Recipe(),
    "tiny_mamba2": Recipe(),
    "tiny_transformer": Recipe(),
}
ARCHITECTURES = {
    "tiny_gdn": "Qwen3.5 (3 GatedDeltaNet layers, 1 attention layer)",
    "tiny_mamba2": "Falcon-H1 (Mamba-2 and attention in parallel in each of 3 layers)",
    "tiny_transformer": "Qwen3 (4 attention layers, no recurrent state: the negative control)",
}
TOKENIZER_SEED = 1
HASHED = ("model.safetensors", "tokenizer.json", "config.json")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def train_and_save(name: str, folder: Path, steps: int | None = None) -> str:
    """Train `name` by its recipe (or for `steps` steps) and write its folder. Returns a one-line summary."""
    recipe = RECIPES[name] if steps is None else dataclasses.replace(RECIPES[name], steps=steps)
    folder.mkdir(parents=True, exist_ok=True)
    fast = tokenizer.save(TOKENIZER_SEED, folder)
    model, run = pretrain(name, fast, recipe)
    model.generation_config = GenerationConfig(
        eos_token_id=models.END_ID, pad_token_id=models.PAD_ID, do_sample=False, max_new_tokens=64
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    data = card_data(name, folder, recipe, run, sum(p.numel() for p in model.parameters()))
    write_json(folder / "card.json", data)
    write_text(folder / "MODEL_CARD.md", markdown(data))
    return f"{recipe.steps} steps, loss {data['final_loss']}, {run.wall_s} s, weights {data['files']['model.safetensors'][:12]}"


def card_data(name: str, folder: Path, recipe: Recipe, run: Run, parameters: int) -> dict[str, Any]:
    pairs = recipe.steps * recipe.batch_size
    return {
        "name": name,
        "architecture": ARCHITECTURES[name],
        "parameters": parameters,
        "recipe": dataclasses.asdict(recipe),
        "corpus": {"pairs": pairs, "tokens": run.tokens, "sha256": corpus.corpus_sha256(recipe.seed, pairs)},
        "benchmark_sha256": sha256(benchmark.PATH),
        "losses": run.losses,
        "final_loss": run.losses[-1][1],
        "wall_s": run.wall_s,
        "threads": 1,
        "files": {file: sha256(folder / file) for file in HASHED},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }


def markdown(data: dict[str, Any]) -> str:
    """MODEL_CARD.md from `card.json`'s content."""
    curve = "\n".join(f"| {step} | {loss} |" for step, loss in data["losses"] if step % 100 == 0 or step == 20)
    recipe = ", ".join(f"{k} {v}" for k, v in data["recipe"].items())
    files = "\n".join(f"| {file} | `{digest}` |" for file, digest in data["files"].items())
    versions = ", ".join(f"{k} {v}" for k, v in data["versions"].items())
    return f"""# {data["name"]}

{data["architecture"]}; {data["parameters"]:,} parameters, fp32. Trained from scratch on a generated corpus of tiny Python
functions so that S0 tuning can be tried, tested and measured on a laptop CPU. It knows nothing else.

Rebuild it with `python scripts/pretrain_tiny.py --model {data["name"]}`; check it with `--check`.

- Corpus: {data["corpus"]["pairs"]:,} prompt-completion pairs, {data["corpus"]["tokens"]:,} tokens, seen once;
  SHA-256 `{data["corpus"]["sha256"]}`. None of the 164 minieval problems is in it.
- Recipe: {recipe}.
- Wall time: {data["wall_s"]} s on one CPU thread. Versions: {versions}.
- Benchmark file SHA-256: `{data["benchmark_sha256"]}`.

| step | completion loss (nats per token) |
|---|---|
{curve}

| file | SHA-256 |
|---|---|
{files}

What the model does wrong on purpose, and how it is used, is described in docs/tiny.md.
"""


def check(name: str, folder: Path) -> str:
    """Compare files, corpus and benchmark with `card.json`. Raises DataError naming what differs."""
    path = folder / "card.json"
    if not path.exists():
        raise DataError(f"{name}: {path} is missing; run python scripts/pretrain_tiny.py --model {name}")
    data = json.loads(path.read_text(encoding="utf-8"))
    actual = {file: sha256(folder / file) if (folder / file).exists() else "missing" for file in HASHED}
    wrong = sorted(file for file, digest in data["files"].items() if actual[file] != digest)
    if sha256(benchmark.PATH) != data["benchmark_sha256"]:
        wrong.append(benchmark.PATH.name)
    if corpus.corpus_sha256(data["recipe"]["seed"], data["corpus"]["pairs"]) != data["corpus"]["sha256"]:
        wrong.append("corpus")
    if wrong:
        raise DataError(
            f"{name}: {', '.join(wrong)} does not match {path}; restore the shipped files or rebuild them with "
            f"python scripts/pretrain_tiny.py --model {name}"
        )
    return f"weights {actual['model.safetensors'][:12]} and corpus {data['corpus']['sha256'][:12]} match the card"
