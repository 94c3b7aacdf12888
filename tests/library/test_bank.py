"""A bank's rows answer as if each had the model to itself, whatever is added or removed meanwhile."""

from __future__ import annotations

import threading

import pytest
import torch

from s0.bank import StateBank
from s0.data import Example
from s0.errors import ArchitectureError, ConfigError, S0Error
from s0.state.cache import TrainingCache
from s0.state.initial import InitialState
from s0.state.inject import Injection
from s0.state.random_models import build
from s0.training.fit import fit_states
from s0.training.jobs import FitConfig, FitJob

GENERATE = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False}
PROMPTS = [[5], [7, 8, 9], [11, 12, 13, 14, 15, 16], [3, 4]]


@pytest.fixture(params=["qwen3_5", "falcon_h1 (gated norm, biases, time-step floor)", "mamba2"])
def bank(request):
    bank = StateBank(build(request.param))
    for seed, name in enumerate("abc"):
        bank.add(name, InitialState.random(bank.layout, 4.0, seed=seed, alpha=0.5 + seed))
    return bank


def _alone(bank, prompt, state):
    with Injection(bank.model, bank.layout, state):
        ids = torch.tensor([prompt])
        out = bank.model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **GENERATE)
    return out[0, len(prompt) :].tolist()


def test_every_row_its_own_state(bank):
    states = ["a", None, {"a": 0.3, "c": -0.5}, "b"]
    alone = [bank.get("a"), None, bank.mix({"a": 0.3, "c": -0.5}), bank.get("b")]
    expected = [_alone(bank, p, s) for p, s in zip(PROMPTS, alone, strict=True)]
    assert bank.generate(PROMPTS, states, **GENERATE) == expected
    assert len({tuple(e) for e in expected}) == 4


def test_one_state_for_all_and_several_sequences_per_prompt(bank):
    together = bank.generate(PROMPTS[:2], ["a", "b"], num_beams=4, num_return_sequences=2, **GENERATE)
    assert len(together) == 4
    for r, name in enumerate("ab"):
        alone = bank.generate(PROMPTS[r : r + 1], name, num_beams=4, num_return_sequences=2, **GENERATE)
        assert together[2 * r : 2 * r + 2] == alone


def test_tensor_in_tensor_out(bank):
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    out = bank.generate(ids, ["a", "b"], pad_token_id=0, **GENERATE)
    assert out[:, 3:].tolist() == bank.generate(ids.tolist(), ["a", "b"], **GENERATE)


def test_mix_is_the_linear_combination_of_effective_states(bank):
    mixed = bank.mix({"a": 2.0, "b": -1.0}).effective()
    a, b = bank.get("a").effective(), bank.get("b").effective()
    assert all(torch.allclose(mixed[i], 2.0 * a[i] - b[i]) for i in mixed)


def test_rows_start_training(bank):
    """Rows of a bank are starts for training: gradients stay in their row."""
    rows = {i: t.requires_grad_() for i, t in bank.rows(["a", "b"]).items()}
    ids = torch.tensor([PROMPTS[2], PROMPTS[2]])
    cache = TrainingCache(bank.layout, rows)
    bank.model(input_ids=ids, use_cache=True, **{bank.layout.cache_argument: cache}).logits[0].logsumexp(
        -1
    ).sum().backward()
    assert all(bool(t.grad[0].any()) and not bool(t.grad[1].any()) for t in rows.values())


def test_fit_learns_several_names_at_once_as_separate_training_does():
    bank = StateBank(build("qwen3_5"))
    examples = {name: [Example("p", [5, 6, 7], [10 + n, 20 + n, 30 + n])] for n, name in enumerate(("x", "y"))}
    config = FitConfig(n_steps=4, lr=0.05, l2_lambda=0.0)
    losses = bank.fit(examples, config)
    assert bank.names() == ["x", "y"]
    assert all(row[-1] < row[0] for row in losses.values())
    for name, rows in examples.items():
        alone = fit_states(bank.model, bank.layout, [FitJob(rows, config)])[0].state
        for i, t in alone.tensors.items():
            assert torch.allclose(bank.get(name).tensors[i], t, atol=1e-5)


# -- names ------------------------------------------------------------------------------------------------------------


def test_add_remove_replace(bank):
    state = bank.remove("a")
    assert bank.names() == ["b", "c"]
    assert "a" not in bank
    assert len(bank) == 2
    bank.add("b", state, replace=True)
    assert bank.get("b") is state
    with pytest.raises(ConfigError, match="already in the bank"):
        bank.add("b", state)


@pytest.mark.parametrize(
    "call",
    [
        lambda bank: bank.get("z"),
        lambda bank: bank.remove("z"),
        lambda bank: bank.mix({"z": 1.0}),
        lambda bank: bank.generate([[5]], ["z"], **GENERATE),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(bank, call):
    with pytest.raises(ConfigError, match="'z': not in the bank; it holds: a, b, c"):
        call(bank)


def test_state_of_another_model_is_refused(bank):
    with pytest.raises(ArchitectureError):
        bank.add("d", InitialState({0: torch.ones(1, 2, 3)}, bank.layout.architecture))
    with pytest.raises(ArchitectureError, match="rwkv"):
        bank.add("d", InitialState({0: torch.ones(1, 2, 3)}, "rwkv"))


def test_wrong_number_of_states_and_empty_prompts(bank):
    with pytest.raises(ConfigError, match="2 for 1 prompts"):
        bank.generate([[5]], ["a", "b"], **GENERATE)
    with pytest.raises(ConfigError, match="empty"):
        bank.generate([[5], []], "a", **GENERATE)
    with pytest.raises(ConfigError, match="need a tokenizer"):
        bank.generate(["text"], "a", **GENERATE)


def test_a_state_file_is_loaded_by_path(bank, tmp_path):
    bank.get("a").save(tmp_path / "state")
    bank.add("again", tmp_path / "state")
    assert bank.generate([[5]], "again", **GENERATE) == bank.generate([[5]], "a", **GENERATE)


def test_names_come_and_go_while_others_generate():
    """Threads that generate, add and remove at the same time get what they would get alone."""
    bank = StateBank(build("qwen3_5"))
    states = [InitialState.random(bank.layout, 4.0, seed=s) for s in range(4)]
    for n, s in enumerate(states):
        bank.add(f"s{n}", s)
    expected = [_alone(bank, PROMPTS[n], states[n]) for n in range(4)]
    wrong: list[object] = []
    stop = threading.Event()

    def churn():
        n = 0
        while not stop.is_set():
            bank.add(f"other{n % 3}", states[n % 4], replace=True)
            bank.remove(f"other{n % 3}")
            n += 1
            stop.wait(0.001)  # a spinning thread would keep the interpreter from those that generate

    def serve(n):
        try:
            for _ in range(3):
                out = bank.generate([PROMPTS[n], PROMPTS[(n + 1) % 4]], [f"s{n}", f"s{(n + 1) % 4}"], **GENERATE)
                if out != [expected[n], expected[(n + 1) % 4]]:
                    wrong.append((n, out))
        except Exception as error:
            wrong.append(error)

    churner = threading.Thread(target=churn)
    workers = [threading.Thread(target=serve, args=(n,)) for n in range(4)]
    for t in (churner, *workers):
        t.start()
    for t in workers:
        t.join()
    stop.set()
    churner.join()
    assert wrong == []
    assert bank.names() == ["s0", "s1", "s2", "s3"]


def test_a_batch_that_fails_leaves_the_model_clean(bank):
    before = bank.model(input_ids=torch.tensor([[5, 6, 7]])).logits
    with pytest.raises((S0Error, ValueError, TypeError)):
        bank.generate([[5, 6]], "a", max_new_tokens=-1)
    assert torch.equal(bank.model(input_ids=torch.tensor([[5, 6, 7]])).logits, before)
    assert bank.generate([[5]], "a", **GENERATE) == [_alone(bank, [5], bank.get("a"))]
