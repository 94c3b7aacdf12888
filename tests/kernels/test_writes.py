"""Write factors of every family against the model's own cache, edits by output against edits of the cache, and mutations
that must be noticed."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from s0.errors import S0Error
from s0.kernels.offsets import Offsets
from s0.kernels.writes import Factors, propagate, read, tap
from s0.state.cache import S0Cache, rows_of
from s0.state.families import Layout, describe
from s0.state.gates import run_prompt
from s0.state.initial import InitialState
from s0.state.random_models import MODELS, build

LENGTH = 21


def _ids(rows: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(2, 90, (rows, length), generator=torch.Generator().manual_seed(3))


def _start(layout: Layout, rows: int = 2) -> dict[int, Tensor]:
    return rows_of(layout, [InitialState.random(layout, 2.0, seed=s) for s in range(rows)])


@torch.no_grad()
def _capture(model: Any, layout: Layout, ids: Tensor) -> tuple[dict[int, Factors], S0Cache, Tensor]:
    seen: dict[int, Factors] = {}
    cache = S0Cache(layout, _start(layout, len(ids)))
    with tap(layout, see=seen.__setitem__):
        logits = model(input_ids=ids, use_cache=True, **{layout.cache_argument: cache}).logits
    return seen, cache, logits


def _state(layout: Layout, cache: S0Cache, layer: int) -> Tensor:
    """[B, H, key dim, value dim]"""
    state = cache.get_recurrent_state(layer)
    assert state is not None
    return layout.family.recurrence.matrix(state.float())


def _final(f: Factors) -> Tensor:
    """S_T from the writes alone, token by token in float64: S_t = diag(exp g_t) S_{t-1} + k_t u_t'."""
    s = f.start.double()
    for t in range(f.k.shape[1]):
        s = f.g[:, t].double().exp()[..., None] * s + f.k[:, t, :, :, None].double() * f.u[:, t, :, None].double()
    return s


def _error(f: Factors, state: Tensor) -> float:
    return float((_final(f) - state.double()).norm() / state.double().norm())


@pytest.fixture(scope="module", params=MODELS)
def captured(request: pytest.FixtureRequest) -> Any:
    model = build(request.param)
    layout = describe(model)
    return model, layout, *_capture(model, layout, _ids())


def test_writes_add_up_to_the_cache_in_every_family(captured: Any) -> None:
    _, layout, seen, cache, _ = captured
    assert sorted(seen) == list(layout.layers)
    for i, f in seen.items():
        state = _state(layout, cache, i)
        assert _error(f, state) < 1e-5
        o, final = read(f.q, f.k, f.u, f.g, f.start)
        torch.testing.assert_close(final, state, rtol=1e-4, atol=1e-5)
        if layout.family.recurrence.erases:  # a Mamba-2 kernel's output has the skip connection D x too
            torch.testing.assert_close(o, f.o, rtol=1e-4, atol=2e-5)


def test_edit_by_output_equals_edit_of_the_cache_in_every_family(captured: Any) -> None:
    """p r' added to S_t between two calls, against one call whose outputs after t have (q_s . x_s) r added."""
    model, layout, seen, _, base = captured
    layer, head, t = layout.layers[0], 1, 8
    f = seen[layer]
    g = torch.Generator().manual_seed(5)
    p, r = torch.randn(2, f.k.shape[-1], generator=g), torch.randn(2, f.u.shape[-1], generator=g)

    def edit(now: Factors) -> Tensor:
        at = torch.full((2,), t)
        c = propagate(now.head(head), at, p)
        c[:, t] = 0  # its own token was read before the cache was edited
        more = torch.zeros_like(now.o)
        more[:, :, head] = c[..., None] * r[:, None]
        return more

    arg = layout.cache_argument
    with torch.no_grad():
        with tap(layout, edit={layer: edit}):
            got = model(input_ids=_ids(), use_cache=True, **{arg: S0Cache(layout, _start(layout))}).logits
        cache = S0Cache(layout, _start(layout))
        model(input_ids=_ids()[:, : t + 1], use_cache=True, **{arg: cache})
        _state(layout, cache, layer)[:, head] += p[:, :, None] * r[:, None]
        at = {} if arg == "cache_params" else {"position_ids": torch.arange(t + 1, LENGTH)[None].expand(2, -1)}
        want = model(input_ids=_ids()[:, t + 1 :], use_cache=True, **{arg: cache}, **at).logits
    assert float((want - base[:, t + 1 :]).abs().max()) > 1e-2
    scale = float(want.abs().max())
    torch.testing.assert_close(got[:, t + 1 :], want, rtol=0, atol=1e-5 * max(1.0, scale))
    assert torch.equal(got[:, : t + 1], base[:, : t + 1]) or float((got - base)[:, : t + 1].abs().max()) < 1e-5


def test_gates_of_the_analyses_are_those_of_the_kernels(captured: Any) -> None:
    model, layout, *_ = captured
    seen: dict[int, Factors] = {}
    ids = _ids(1)
    with torch.no_grad(), tap(layout, see=seen.__setitem__):
        model(input_ids=ids)
    _, _, gates = run_prompt(model, layout, ids[0].tolist())
    for i, f in seen.items():
        want = f.g[0] if gates[i].ndim == 3 else f.g[0, ..., 0]
        torch.testing.assert_close(gates[i], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["qwen3_5", "kimi_linear", "falcon_h1"])
def test_propagation_equals_the_dense_product(name: str) -> None:
    """x_s = (I - b k k') diag(a) x_{s-1}; with open gates and no erasing it stays what it was."""
    model = build(name)
    layout = describe(model)
    f = _capture(model, layout, _ids())[0][layout.layers[0]].head(2)
    at, p = torch.tensor([3, 15]), torch.randn(2, f.k.shape[-1])
    got = propagate(f, at, p)
    for row in range(2):
        x = p[row].double()
        for s in range(LENGTH):
            if s < at[row]:
                assert float(got[row, s]) == 0
                continue
            if s > at[row]:
                k, b = f.k[row, s, 0].double(), float(f.b[row, s, 0])
                x = f.g[row, s, 0].double().exp() * x
                x = x - b * k * (k @ x)
            assert float(got[row, s]) == pytest.approx(float(f.q[row, s, 0].double() @ x), abs=1e-6, rel=1e-5)
    still = replace(f, g=torch.zeros_like(f.g), b=torch.zeros_like(f.b))
    want = torch.einsum("bsk,bk->bs", f.q[:, :, 0], p) * (torch.arange(LENGTH) >= at[:, None])
    torch.testing.assert_close(propagate(still, at, p), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["qwen3_5", "falcon_h1", "kimi_linear"])
def test_one_token_calls_see_the_same_writes(name: str) -> None:
    model = build(name)
    layout = describe(model)
    whole = _capture(model, layout, _ids())[0]
    parts: dict[int, list[Factors]] = {i: [] for i in layout.layers}
    cache = S0Cache(layout, _start(layout))
    with torch.no_grad(), tap(layout, see=lambda i, f: parts[i].append(f)):
        for t in range(LENGTH):
            at = {"position_ids": torch.full((2, 1), t)}
            model(input_ids=_ids()[:, t : t + 1], use_cache=True, past_key_values=cache, **at)
    for i, f in whole.items():
        for name in ("q", "k", "u", "g"):
            together = torch.cat([getattr(x, name) for x in parts[i]], 1)
            torch.testing.assert_close(together, getattr(f, name), rtol=1e-4, atol=1e-5)


# -- mistakes that the checks above must notice -----------------------------------------------------------------------


def test_mutation_reading_S_k_instead_of_S_transposed_k_is_noticed() -> None:
    """With equal key and value dimensions the wrong read raises nothing; the state then differs."""
    model = build("kimi_linear")
    layout = describe(model)
    seen, cache, _ = _capture(model, layout, _ids())
    f = seen[layout.layers[0]]
    s, u = f.start.clone(), []
    for t in range(LENGTH):
        s = f.g[:, t].exp()[..., None] * s
        wrong = torch.einsum("bhkv,bhv->bhk", s, f.k[:, t])  # S k
        u.append(f.b[:, t, :, None] * (f.v[:, t] - wrong))
        s = s + f.k[:, t, :, :, None] * u[-1][:, :, None]
    assert _error(f, _state(layout, cache, layout.layers[0])) < 1e-5
    assert _error(replace(f, u=torch.stack(u, 1)), _state(layout, cache, layout.layers[0])) > 1e-2


def test_mutation_transposed_mamba2_state_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("falcon_h1")
    layout = describe(model)
    seen, cache, _ = _capture(model, layout, _ids())
    state = _state(layout, cache, layout.layers[0])
    assert state.shape[-2:] == (8, 12)
    with pytest.raises(RuntimeError):
        _error(seen[layout.layers[0]], state.transpose(-1, -2))


@pytest.mark.parametrize("mutation", ["no 1/sqrt(dk)", "q and k swapped"])
def test_mutations_of_the_query_are_noticed(mutation: str, captured: Any) -> None:
    _, layout, seen, _, _ = captured
    if not layout.family.recurrence.erases:
        pytest.skip("the outputs of a Mamba-2 kernel hold more than the read; its logits are compared above")
    f = seen[layout.layers[0]]
    q, k = (f.q * f.q.shape[-1] ** 0.5, f.k) if mutation.startswith("no") else (f.k, f.q)
    o, _ = read(q, k, f.u, f.g, f.start)
    assert float((o - f.o).norm() / f.o.norm()) > 1e-2


def test_two_contexts_on_one_layer_are_refused_and_leave_nothing_behind() -> None:
    model = build("qwen3_5")
    layout = describe(model)
    module = sys.modules[type(layout.mixers[0]).__module__]
    before = module.torch_chunk_gated_delta_rule
    zeros = {i: torch.zeros(1, *s) for i, s in layout.shapes.items()}
    with (
        pytest.raises(S0Error, match="another context"),
        torch.no_grad(),
        Offsets(layout, zeros),
        tap(layout, see=lambda i, f: None),
    ):
        model(input_ids=_ids())
    assert module.torch_chunk_gated_delta_rule is before
    with torch.no_grad():
        model(input_ids=_ids())
