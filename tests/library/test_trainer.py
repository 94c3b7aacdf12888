"""S0Trainer keeps the published interface: code written against the public library runs, and its mistakes are one line."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

import s0_tuning
from s0 import S0Config, S0Trainer
from s0.errors import ArchitectureError, S0Error
from s0.paths import EMBEDDED_MODELS as EMBEDDED

FOLDER = EMBEDDED / "tiny_gdn"
README = Path(__file__).parents[2] / "README.md"
PROMPT, SOLUTION = "def solve(nums):\n", "    return sum(nums)\n"


@pytest.fixture
def trainer() -> S0Trainer:
    return S0Trainer.from_pretrained(str(FOLDER), S0Config(n_steps=5, lr=0.02, alpha=1.0))


def examples(trainer: S0Trainer) -> list[tuple[str, int]]:
    return [(PROMPT + SOLUTION, len(trainer.tokenizer(PROMPT).input_ids))]


def logits(trainer: S0Trainer) -> torch.Tensor:
    ids = trainer.tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        return trainer.model(ids).logits


def test_both_documented_imports_are_one_class() -> None:
    assert s0_tuning.S0Trainer is S0Trainer
    assert s0_tuning.S0Config is S0Config


def test_defaults_are_the_published_ones() -> None:
    assert dataclasses.asdict(S0Config()) == {
        "n_steps": 20, "lr": 1e-3, "l2_lambda": 5e-4, "alpha": None, "normalize": False, "grad_clip": 1.0, "max_length": 2048
    }  # fmt: skip


def test_the_usage_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = next(b for b in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "S0Trainer" in b)
    # a folder in place of the hub id, and the one example in place of "and so on"
    code = block.replace("Qwen/Qwen3.5-4B", str(FOLDER)).replace("), ...]", ")]")
    monkeypatch.chdir(tmp_path)
    names = {"prompt": PROMPT, "solution": SOLUTION, "n_prompt_tokens": 8}
    exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "my_state" / "states.safetensors").exists()


def test_train_activate_save_load_deactivate(trainer: S0Trainer, tmp_path: Path) -> None:
    base = logits(trainer)
    result = trainer.train(examples(trainer))
    assert set(result) == {"final_loss", "avg_state_norm"}
    assert result["avg_state_norm"] > 0
    assert torch.equal(logits(trainer), base), "trained, not yet active"
    trainer.activate()
    tuned = logits(trainer)
    assert not torch.equal(tuned, base)
    text = trainer.generate(PROMPT, max_new_tokens=12)
    assert PROMPT not in text
    trainer.save(tmp_path / "state")
    assert {p.name for p in (tmp_path / "state").iterdir()} == {"states.safetensors", "config.json", "meta.json"}
    assert set(json.loads((tmp_path / "state" / "config.json").read_text())) >= set(dataclasses.asdict(S0Config()))
    other = S0Trainer.from_pretrained(str(FOLDER))
    other.load(tmp_path / "state")
    assert other.config == trainer.config
    other.activate()
    assert torch.equal(logits(other), tuned)
    assert other.generate(PROMPT, max_new_tokens=12) == text
    trainer.deactivate()
    assert torch.equal(logits(trainer), base)


def test_training_again_while_active_stays_active(trainer: S0Trainer) -> None:
    base = logits(trainer)
    trainer.train(examples(trainer))
    trainer.activate()
    first = logits(trainer)
    trainer.config.n_steps = 8
    trainer.train(examples(trainer))
    assert not torch.equal(logits(trainer), first)
    trainer.deactivate()
    assert torch.equal(logits(trainer), base)


def test_mistakes_are_one_line(trainer: S0Trainer, tmp_path: Path) -> None:
    for call, words in (
        (trainer.activate, "no state yet"),
        (lambda: trainer.save(tmp_path), "no state yet"),
        (lambda: trainer.train([]), "no examples"),
        (lambda: trainer.train([("short", 10_000)]), "prompt_length=10000"),
        (lambda: trainer.generate(""), "prompt is empty"),
        (lambda: trainer.load(tmp_path / "nowhere"), "meta.json"),
        (lambda: S0Config(n_steps=0), "n_steps=0"),
    ):
        with pytest.raises(S0Error, match=words) as refused:
            call()
        assert "\n" not in str(refused.value)
    assert trainer.generate(PROMPT, max_new_tokens=2) is not None


def test_a_state_of_another_model_is_refused(trainer: S0Trainer, tmp_path: Path) -> None:
    trainer.train(examples(trainer))
    trainer.save(tmp_path / "state")
    other = S0Trainer.from_pretrained(str(EMBEDDED / "tiny_mamba2"))
    with pytest.raises(ArchitectureError, match="does not fit"):
        other.load(tmp_path / "state")


def test_a_pure_transformer_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="no recurrent layer"):
        S0Trainer.from_pretrained(str(EMBEDDED / "tiny_transformer"))
