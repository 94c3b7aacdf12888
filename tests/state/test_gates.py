"""Decay gates of every family, and what a new family of a known recurrence costs: one entry and one random model."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from s0.analysis.alpha import predict_alpha
from s0.kernels.offsets import Offsets
from s0.state import families, random_models
from s0.state.checks import CHECKS
from s0.state.families import FAMILIES, describe
from s0.state.gates import run_prompt, surviving_energy
from s0.state.initial import InitialState
from s0.state.random_models import MODELS, build

PROMPT = [5, 9, 17, 30, 41, 8, 12, 77]


@pytest.mark.parametrize("name", MODELS)
def test_gates_are_what_the_kernel_is_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name)
    layout = describe(model)
    module, kernel = sys.modules[type(layout.mixers[layout.layers[0]]).__module__], layout.family.recurrence.chunk
    original, seen = getattr(module, kernel), []

    def spy(*args: Any, **kwargs: Any) -> Any:
        if layout.architecture == "mamba2":
            dt = torch.nn.functional.softplus(args[1] + kwargs["dt_bias"]).clamp(*kwargs["dt_limit"])
            seen.append(dt * args[2])
        else:
            seen.append(kwargs["g"])
        return original(*args, **kwargs)

    monkeypatch.setattr(module, kernel, spy)
    _, _, gates = run_prompt(model, layout, PROMPT)
    assert len(gates) == len(seen) == len(layout.layers)
    for i, want in zip(layout.layers, seen, strict=True):
        torch.testing.assert_close(gates[i], want[0].float(), rtol=1e-5, atol=1e-6)
        assert float(gates[i].max()) <= 0


@pytest.mark.parametrize("name", ["qwen3_next", "kimi_linear", "bailing_hybrid", "glm5_next", "falcon_h1"])
def test_surviving_energy_is_what_the_gates_alone_leave(name: str) -> None:
    model = build(name)
    layout = describe(model)
    state = InitialState.random(layout, 2.0, seed=1)
    _, _, gates = run_prompt(model, layout, PROMPT)
    want = torch.zeros(len(PROMPT), dtype=torch.float64)
    for i, start in state.effective().items():
        left = start.double()
        for t in range(len(PROMPT)):
            a = gates[i][t].double().exp()
            left = left * (a[..., None] if a.ndim == 2 else a[:, None, None])
            want[t] += left.square().sum()
    torch.testing.assert_close(surviving_energy(gates, state), want)
    values = predict_alpha(model, layout, [PROMPT], state)
    assert values


def test_a_new_family_of_a_known_recurrence_is_one_entry_and_one_random_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mixer of another transformers class: everything else follows from its entry."""
    old = FAMILIES["Qwen3_5GatedDeltaNet"]
    module = sys.modules["transformers.models.qwen3_5.modeling_qwen3_5"]
    mixer: Any = type("NewGatedDeltaNet", (module.Qwen3_5GatedDeltaNet,), {"__module__": module.__name__})

    def model() -> Any:
        made = MODELS["qwen3_5"]()
        for m in made.modules():
            if type(m).__name__ == "Qwen3_5GatedDeltaNet":
                m.__class__ = mixer
        return made

    entry = families._delta("new", "NewGatedDeltaNet", "in_proj_a", "in_proj_b", old.engines)
    monkeypatch.setitem(families.FAMILIES, entry.mixer, entry)
    monkeypatch.setitem(random_models.MODELS, "new", model)
    new = build("new")
    layout = describe(new)
    assert layout.family is entry
    assert layout.family.default_alpha == 0.07
    for check in ("padded = unpadded", "cached = full", "save / load"):
        CHECKS[check](new, layout)
    state = InitialState.random(layout, 2.0, seed=1)
    _, _, gates = run_prompt(new, layout, PROMPT, state)
    assert gates[0].shape == (len(PROMPT), 4)
    assert float(surviving_energy(gates, state)[-1]) > 0
    with Offsets(layout, {i: torch.zeros(1, *s) for i, s in layout.shapes.items()}), torch.no_grad():
        new(input_ids=torch.tensor([PROMPT]))
