"""`S0Trainer.fit` on data of one's own, `S0Config` on disk, and bad input before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from s0 import S0Config, S0Trainer, embedded_model
from s0.errors import ConfigError, S0Error
from s0.training.rows import read_rows, split_rows

ROWS = [("Write a function.\n", "    return nums[0]\n"), ("Another.\n", "    return text.upper()\n"),
        ("A third.\n", "    return a + b\n"), ("The last.\n", "    return words[-1]\n")]  # fmt: skip


@pytest.fixture
def trainer() -> S0Trainer:
    folder = embedded_model("tiny_gdn")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return S0Trainer(model, AutoTokenizer.from_pretrained(folder), S0Config(n_steps=4, lr=0.02))


def test_fit_chooses_alpha_on_held_out_rows_and_says_what_it_did(trainer: S0Trainer) -> None:
    valid = [("Write a function.\n", "    return nums[-1]\n"), ("More.\n", "    return b + a\n")]
    report = trainer.fit(ROWS, valid=valid, grid=(0.0, 0.5, 1.0), samples=1, max_new_tokens=4)
    assert report.alpha_scores[0.0] == pytest.approx(report.held_out_before, abs=1e-4)  # alpha 0 is the base model
    assert report.alpha_scores[report.alpha] == min(report.alpha_scores.values())
    assert report.held_out_after == pytest.approx(report.alpha_scores[report.alpha], abs=1e-4)
    assert report.held_out_after is not None
    assert report.held_out_before is not None
    assert report.held_out_after < report.held_out_before
    assert report.losses[-1] < report.losses[0]
    assert (report.n_train, report.n_held_out, len(report.answers)) == (4, 2, 1)
    assert "held-out loss" in str(report)
    assert trainer.config.alpha == report.alpha


def test_fit_leaves_the_state_active_and_deactivate_gives_the_base_model_back(trainer: S0Trainer) -> None:
    ids = trainer.tokenizer("def solve(nums):", return_tensors="pt").input_ids
    with torch.no_grad():
        base = trainer.model(ids).logits
        trainer.fit(ROWS, valid=0, alpha=1.0, samples=0)
        assert not torch.equal(trainer.model(ids).logits, base)
        trainer.deactivate()
        assert torch.equal(trainer.model(ids).logits, base)


def test_a_changed_alpha_counts_while_the_state_is_active(trainer: S0Trainer) -> None:
    trainer.fit(ROWS, valid=0, alpha=1.0, samples=0)
    ids = trainer.tokenizer("def solve(nums):", return_tensors="pt").input_ids
    with torch.no_grad():
        one = trainer.model(ids).logits
        trainer.config.alpha = 0.25
        quarter = trainer.model(ids).logits
    assert not torch.equal(one, quarter)


def test_every_form_of_a_row_is_the_same_example(trainer: S0Trainer) -> None:
    user, answer = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "    return 1\n"}
    chats: list[Any] = [[user, answer], {"messages": [user, answer]}, {"prompt": [user], "completion": [answer]},
                        {"prompt": [user], "completion": answer["content"]}]  # fmt: skip
    examples = [r.example for r in read_rows(trainer.tokenizer, chats)]
    assert all(
        (e.prompt_ids, e.completion_ids) == (examples[0].prompt_ids, examples[0].completion_ids) for e in examples
    )
    assert examples[0].completion_ids[-1] == trainer.tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("text", "data is a str"),
        ([], "no rows"),
        ([("prompt", 3)], "the form of train()"),
        ([("prompt", "")], "the completion is empty"),
        ([{"question": "x"}], "a row with the fields question"),
        ([None], "row 0 is a NoneType"),
        ([[{"role": "user", "content": "x"}]], "row 0 is a list of 1"),
    ],
)
def test_rows_nobody_can_read_are_one_line_before_training(trainer: S0Trainer, data: Any, words: str) -> None:
    with pytest.raises(S0Error) as refused:
        trainer.fit(data)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert trainer.state is None


def test_a_split_is_drawn_with_its_seed_and_leaves_a_row_on_either_side(trainer: S0Trainer) -> None:
    rows = read_rows(trainer.tokenizer, ROWS)
    first, again, other = (split_rows(rows, 0.5, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert [len(part) for part in split_rows(rows, 0.01, 0)] == [3, 1]
    for bad in (1.0, -0.1, True):
        with pytest.raises(ConfigError, match="valid="):
            split_rows(rows, bad, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("alpha", float("nan")), ("lr", float("nan")), ("lr", -1.0), ("n_steps", 2.5), ("n_steps", 0), ("alpha", "auto"),
     ("normalize", "false"), ("max_length", True)],
)  # fmt: skip
def test_a_config_no_training_can_use_is_refused_when_made(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"S0Config\.{field}="):
        S0Config(**{field: value})


def test_a_config_on_disk_is_read_back(tmp_path: Path) -> None:
    config = S0Config(n_steps=3, alpha=0.5)
    config.save(tmp_path)
    assert S0Config.load(tmp_path) == config == S0Config.from_dict(config.to_dict())
    (tmp_path / "config.json").write_text(json.dumps({"n_step": 3}))
    with pytest.raises(ConfigError, match="did you mean n_steps"):
        S0Config.load(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(S0Error):
        S0Config.load(tmp_path)


def test_the_published_order_of_fields_stands() -> None:
    values = (7, 2e-3, 1e-4, 0.3, True, 0.5, 64)
    assert tuple(S0Config(*values).to_dict().values()) == values
