"""What every method promises: off is the base model bit for bit, save and load, resume, names, costs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from method_help import MODELS, context, method, model_of, sets, tokens

from s0.config.schema import MethodConfig
from s0.errors import ConfigError, StoreError
from s0.methods import METHODS, make_method

CASES = [
    ("none", {}, MODELS),
    ("s0", {"n_steps": 2, "lr": 0.1, "alpha": 1.0}, MODELS[:2]),
    ("state_offset", {"n_steps": 2, "lr": 0.1}, MODELS[:2]),
    ("state_offset", {"n_steps": 2, "lr": 0.1, "mode": "readout"}, MODELS[:2]),
    ("lora", {"rank": 3, "n_steps": 2, "lr": 0.05}, MODELS),
    ("lora", {"rank": 3, "n_steps": 2, "lr": 0.05, "merge": False}, MODELS),
    ("prefix", {"n_virtual_tokens": 4, "n_steps": 2, "lr": 0.05}, MODELS[2:]),
]
PAIRS = [pytest.param(m, s, name, id=f"{m}-{i}-{name}") for i, (m, s, names) in enumerate(CASES) for name in names]


def test_every_method_is_covered() -> None:
    assert {m for m, _, _ in CASES} == set(METHODS)


def _fingerprint(model: Any) -> tuple[Any, ...]:
    modules = [(n, type(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()]
    return (
        modules,
        sorted(k for k in model.__dict__ if not k.startswith("_")),
        [p.requires_grad for p in model.parameters()],
        model.training,
    )


@pytest.mark.parametrize(("name", "settings", "kind"), PAIRS)
def test_adapter_off_is_the_base_model_bit_for_bit(name: str, settings: Any, kind: str, tmp_path: Path) -> None:
    model, ids = model_of(kind), tokens(2, 9)
    ctx, m = context(model), method(name, **settings)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    before = _fingerprint(model)
    with torch.no_grad():
        base = model(input_ids=ids).logits
    first, second = m.fit(ctx, sets(0, 1))
    first.save(tmp_path / "first")
    loaded = m.load(ctx, tmp_path / "first")
    with torch.no_grad():
        with first.applied(model) as adapted:
            on = adapted(input_ids=ids).logits
        with loaded.applied(model) as adapted:
            assert torch.equal(adapted(input_ids=ids).logits, on)
        with second.applied(model) as adapted:
            other = adapted(input_ids=ids).logits
        with pytest.raises(KeyboardInterrupt), first.applied(model):
            raise KeyboardInterrupt
        off = model(input_ids=ids).logits
    assert torch.equal(off, base)
    assert _fingerprint(model) == before
    after = model.state_dict()
    assert weights.keys() == after.keys()
    assert all(torch.equal(weights[k], after[k]) for k in weights)
    assert loaded.trainable_params == first.trainable_params
    assert loaded.curve == first.curve
    if name != "none":
        assert not torch.equal(on, base)
        assert not torch.equal(on, other)
        assert len(first.curve.losses) == len(first.curve.grad_norms) == settings["n_steps"]
        assert first.trainable_params > 0
    text = "".join(f.read_text() for f in (tmp_path / "first").glob("*.json"))
    assert str(Path.home()) not in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("name", "settings", "kind"),
    [p for p in PAIRS if p.values[0] != "none"],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_resumed_training_equals_an_uninterrupted_one(name: str, settings: Any, kind: str) -> None:
    m = method(name, **{**settings, "n_steps": 3})
    assert m.resumable
    straight = m.fit(context(model_of(kind)), sets(0, 1))

    class Stop(Exception):
        pass

    for stop_at in (1, 2) if name in ("s0", "state_offset") else (2, 4):
        kept: dict[str, Any] = {}

        def stop(step: int, snapshot: Any, stop_at: int = stop_at, kept: dict[str, Any] = kept) -> None:
            if step == stop_at:
                kept.update(torch.load(_through_disk(snapshot()), weights_only=True))
                raise Stop

        with pytest.raises(Stop):
            m.fit(context(model_of(kind), on_step=stop), sets(0, 1))
        model = model_of(kind)
        resumed = m.fit(context(model, resume=kept), sets(0, 1))
        ids = tokens(1, 7)
        for a, b in zip(straight, resumed, strict=True):
            assert a.curve == b.curve
            with torch.no_grad():
                with a.applied(model):
                    want = model(input_ids=ids).logits
                with b.applied(model):
                    assert torch.equal(model(input_ids=ids).logits, want)


def _through_disk(snapshot: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(snapshot, buffer)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize(
    ("name", "settings", "label", "cost"),
    [
        ("none", {}, "none", "none"),
        ("s0", {}, "s0", "none"),
        ("state_offset", {}, "state_offset", "per-step"),
        ("state_offset", {"mode": "readout", "layers": "early"}, "state_offset_readout_early", "per-step"),
        ("lora", {}, "lora_r24", "merge"),
        ("lora", {"rank": 48, "n_solutions": 10}, "lora_r48_n10", "merge"),
        ("lora", {"rank": "match"}, "lora_match", "merge"),
        ("prefix", {}, "prefix_v30", "extra tokens"),
    ],
)
def test_labels_and_inference_costs(name: str, settings: Any, label: str, cost: str) -> None:
    m = method(name, **settings)
    assert (m.label(), m.inference_cost) == (label, cost)


def test_what_only_matters_at_use_does_not_determine_what_is_learned() -> None:
    assert method("state_offset", alpha=0.5).determinants() == method("state_offset").determinants()
    assert method("lora", merge=False).determinants() == method("lora").determinants()
    assert method("lora", rank=48).determinants() != method("lora").determinants()


def test_what_matters_at_use_is_told_to_whoever_stores_evaluations() -> None:
    """One training serves every alpha; its evaluations must not be mistaken for each other."""
    model = model_of("qwen3_5")
    uses = [method("state_offset", n_steps=1, alpha=a).fit(context(model), sets(0))[0].use for a in (0.5, 1.0)]
    assert uses[0] != uses[1]
    uses = [method("lora", rank=2, n_steps=1, merge=m).fit(context(model), sets(0))[0].use for m in (True, False)]
    assert uses[0] != uses[1]


def test_progress_counts_over_all_training_sets() -> None:
    seen: list[tuple[int, int, int]] = []
    ctx = context(model_of("qwen2"), progress=lambda step, n, losses: seen.append((step, n, len(losses))))
    method("lora", rank=2, n_steps=2).fit(ctx, sets(0, 1))
    assert seen == [(1, 4, 1), (2, 4, 1), (3, 4, 1), (4, 4, 1)]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("state_offset", "offsets.safetensors"),
        ("lora", "adapter_model.safetensors"),
        ("prefix", "adapter_model.safetensors"),
    ],
)
def test_a_torn_adapter_file_is_one_line(name: str, file: str, tmp_path: Path) -> None:
    model = model_of("qwen2" if name == "prefix" else "qwen3_5")
    (adapter,) = method(name, n_steps=1).fit(context(model), sets(0))
    adapter.save(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:50])
    with pytest.raises(StoreError, match=f"{name} in .*cannot be read.*fit again"):
        method(name).load(context(model), tmp_path)


def test_an_unknown_method_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match="did you mean lora"):
        make_method(MethodConfig(name="lorra"))
