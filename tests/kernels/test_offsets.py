"""The offset identity against recurrences written token by token: outputs, final states, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.falcon_h1 import modeling_falcon_h1 as falcon
from transformers.models.kimi_linear import modeling_kimi_linear as kimi
from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen

from s0.kernels.offsets import decayed_counts, delta_chunk, delta_step, mamba_chunk, mamba_step
from s0.kernels.taps import KernelCall
from s0.state.recurrences import GATED_DELTA_NET


def _through(
    function: Any, module: Any, kernel: Any, o: Tensor, tokens: Tensor | None, mode: str, *args: Any, **kw: Any
) -> Any:
    return function(KernelCall(0, GATED_DELTA_NET, module, kernel, False, tokens, args, kw), o, mode)


@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize("length", [1, 16, 64, 150])
@pytest.mark.parametrize("strength", [1e-4, 1.0, 60.0])
def test_decayed_counts_equal_a_loop(channels: int, length: int, strength: float) -> None:
    torch.manual_seed(0)
    g = -strength * torch.rand(2, length, 3, channels)
    mask = torch.rand(2, length) > 0.3
    e, want = torch.zeros(2, 3, channels, dtype=torch.float64), []
    for t in range(length):
        e = g[:, t].double().exp() * (e + mask[:, t, None, None].double())
        want.append(e)
    torch.testing.assert_close(decayed_counts(g, mask).double(), torch.stack(want, 1), rtol=2e-5, atol=1e-6)


def test_decayed_counts_survive_decays_that_would_overflow_a_quotient_of_products() -> None:
    g = torch.full((1, 130, 1, 1), -90.0, requires_grad=True)
    e = decayed_counts(g)
    e.sum().backward()
    assert torch.isfinite(e).all()
    assert g.grad is not None
    assert torch.isfinite(g.grad).all()


def test_at_pads_with_open_decay_nothing_is_counted() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 0]])
    assert decayed_counts(torch.zeros(1, 5, 1, 1), mask).flatten().tolist() == [0, 0, 1, 2, 2]


def _delta_inputs(length: int, per_channel: bool) -> dict[str, Tensor]:
    torch.manual_seed(length)
    key_heads, heads, k, v = (4, 4, 8, 8) if per_channel else (2, 4, 8, 12)
    g = -torch.rand(2, length, heads, k) if per_channel else -torch.rand(2, length, heads)
    return {
        "query": torch.randn(2, length, key_heads, k),
        "key": torch.randn(2, length, key_heads, k),
        "value": torch.randn(2, length, heads, v),
        "g": g * 0.3,
        "beta": torch.rand(2, length, heads),
        "initial_state": torch.randn(2, heads, k, v),
        "o": torch.randn(2, heads, k, v) * 0.3,
    }


def _delta_reference(x: dict[str, Tensor], mode: str, tokens: Tensor | None) -> tuple[Tensor, Tensor]:
    """S_t = (I - b k k')diag(a)(S_{t-1} + O) + b k v', o_t = S_t' q / sqrt(d), in float64."""
    x = {n: t.double() for n, t in x.items()}
    repeat = x["value"].shape[2] // x["key"].shape[2]
    q, k = (F.normalize(x[n], dim=-1).repeat_interleave(repeat, 2) for n in ("query", "key"))
    s, out = x["initial_state"], []
    for t in range(q.shape[1]):
        a = x["g"][:, t].exp()
        a = a[..., None] if a.ndim == 3 else a[..., None, None]
        on = 1.0 if tokens is None else tokens[:, t].double().view(-1, 1, 1, 1)
        s = a * (s + on * x["o"] if mode == "accumulate" else s)
        seen = (s * k[:, t, ..., None]).sum(-2)
        write = (x["value"][:, t] - seen) * x["beta"][:, t, :, None]
        s = s + k[:, t, ..., None] * write[..., None, :]
        read = s if mode == "accumulate" else s + x["o"]
        out.append((read * q[:, t, ..., None]).sum(-2) * q.shape[-1] ** -0.5)
    return torch.stack(out, 1), s


def _call(wrapper: Any, module: Any, kernel: Any, x: dict[str, Tensor], mode: str, tokens: Tensor | None) -> Any:
    names = [n for n in x if n != "o"]
    return _through(
        wrapper,
        module,
        kernel,
        x["o"],
        tokens,
        mode,
        **{n: x[n] for n in names},
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )


@pytest.mark.parametrize("mode", ["accumulate", "readout"])
@pytest.mark.parametrize("length", [1, 7, 64, 150])
@pytest.mark.parametrize("rule", ["gated delta net", "kimi"])
def test_delta_rule_equals_the_recurrence_with_gradients(rule: str, length: int, mode: str) -> None:
    module, kernel = (
        (kimi, kimi.chunk_kimi_delta_attention) if rule == "kimi" else (qwen, qwen.torch_chunk_gated_delta_rule)
    )
    mine = {n: t.requires_grad_() for n, t in _delta_inputs(length, rule == "kimi").items()}
    theirs = {n: t.detach().clone().requires_grad_() for n, t in mine.items()}
    out, state = _call(delta_chunk, module, kernel, mine, mode, None)
    want, final = _delta_reference(theirs, mode, None)
    torch.testing.assert_close(out.double(), want, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(state.double(), final, rtol=1e-4, atol=5e-5)
    weights = torch.randn_like(want)
    (out.double() * weights).sum().add(state.double().square().sum()).backward()
    (want * weights).sum().add(final.square().sum()).backward()
    for n in mine:
        scale = float(theirs[n].grad.abs().max())
        torch.testing.assert_close(mine[n].grad, theirs[n].grad, rtol=1e-3, atol=2e-5 * scale, msg=f"gradient of {n}")


@pytest.mark.parametrize("mode", ["accumulate", "readout"])
def test_delta_rule_one_token_at_a_time(mode: str) -> None:
    x = _delta_inputs(9, False)
    want, final = _delta_reference(x, mode, None)
    state, out = x["initial_state"], []
    for t in range(9):
        one = {n: x[n][:, t : t + 1] for n in ("query", "key", "value", "g", "beta")}
        one |= {"initial_state": state, "o": x["o"]}
        o, state = _call(delta_step, qwen, qwen.torch_recurrent_gated_delta_rule, one, mode, None)
        out.append(o)
    torch.testing.assert_close(torch.cat(out, 1).double(), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.double(), final, rtol=1e-4, atol=1e-5)


def test_delta_rule_adds_nothing_at_pads() -> None:
    x = _delta_inputs(12, False)
    tokens = torch.ones(2, 12, dtype=torch.bool)
    tokens[0, :5] = False
    x["beta"] = x["beta"] * tokens[..., None]
    x["g"] = x["g"] * tokens[..., None]  # closed gates, as s0.state.pads.exact_pads makes them
    out, state = _call(delta_chunk, qwen, qwen.torch_chunk_gated_delta_rule, x, "accumulate", tokens)
    short = {n: t if n in ("o", "initial_state") else t[:, 5:] for n, t in x.items()}
    want, final = _delta_reference(short, "accumulate", None)
    torch.testing.assert_close(out[0, 5:].double(), want[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state[0].double(), final[0], rtol=1e-4, atol=1e-5)


def test_bfloat16_inputs_lose_nothing_to_the_identity() -> None:
    """Values minus offset reads nearly cancel with e O: in bf16 that would cost far more than the inputs' own rounding."""
    x = {n: t if n in ("o", "initial_state") else t.bfloat16() for n, t in _delta_inputs(150, False).items()}
    x["g"] = x["g"].float() * 0.01  # slow decay: large e
    out, state = _call(delta_chunk, qwen, qwen.torch_chunk_gated_delta_rule, x, "accumulate", None)
    want, final = _delta_reference(x, "accumulate", None)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), want, rtol=2**-8, atol=1e-4)
    torch.testing.assert_close(state.double(), final, rtol=1e-3, atol=1e-3)


def _mamba_inputs(length: int) -> dict[str, Tensor]:
    torch.manual_seed(length)
    return {
        "hidden_states": torch.randn(2, length, 4, 6),
        "dt": torch.randn(2, length, 4),
        "A": -torch.rand(4) * 2,
        "B": torch.randn(2, length, 2, 8),
        "C": torch.randn(2, length, 2, 8),
        "D": torch.randn(4),
        "dt_bias": torch.randn(4),
        "initial_states": torch.randn(2, 4, 6, 8),
        "o": torch.randn(2, 4, 6, 8) * 0.3,
    }


def _mamba_reference(x: dict[str, Tensor], mode: str, limit: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """S_t = exp(dt A)(S_{t-1} + O) + dt x B', y_t = S_t C + D x, in float64."""
    x = {n: t.double() for n, t in x.items()}
    b, c = (x[n].repeat_interleave(2, 2) for n in "BC")
    s, out = x["initial_states"], []
    for t in range(b.shape[1]):
        dt = F.softplus(x["dt"][:, t] + x["dt_bias"]).clamp(*limit)
        now = x["hidden_states"][:, t]
        s = (dt * x["A"]).exp()[..., None, None] * (s + x["o"] if mode == "accumulate" else s)
        s = s + (dt[..., None] * now)[..., None] * b[:, t, :, None]
        read = s if mode == "accumulate" else s + x["o"]
        out.append((read * c[:, t, :, None]).sum(-1) + x["D"][:, None] * now)
    return torch.stack(out, 1), s


@pytest.mark.parametrize("mode", ["accumulate", "readout"])
@pytest.mark.parametrize(("length", "limit"), [(1, (0.0, float("inf"))), (7, (0.05, 1.0)), (150, (0.0, float("inf")))])
def test_mamba2_equals_the_recurrence_with_gradients(length: int, limit: tuple[float, float], mode: str) -> None:
    mine = {n: t.requires_grad_() for n, t in _mamba_inputs(length).items()}
    theirs = {n: t.detach().clone().requires_grad_() for n, t in mine.items()}
    out, state = _through(
        mamba_chunk,
        falcon,
        falcon.mamba2_chunk_scan,
        mine["o"],
        None,
        mode,
        chunk_size=16,
        dt_softplus=True,
        dt_limit=limit,
        return_final_states=True,
        **{n: t for n, t in mine.items() if n != "o"},
    )
    want, final = _mamba_reference(theirs, mode, limit)
    torch.testing.assert_close(out.double(), want, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(state.double(), final, rtol=1e-4, atol=2e-5)
    weights = torch.randn_like(want)
    (out.double() * weights).sum().add(state.double().square().sum()).backward()
    (want * weights).sum().add(final.square().sum()).backward()
    for n in mine:
        scale = float(theirs[n].grad.abs().max())
        torch.testing.assert_close(mine[n].grad, theirs[n].grad, rtol=1e-3, atol=2e-5 * scale, msg=f"gradient of {n}")


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("mode", ["accumulate", "readout"])
def test_mamba2_one_token_at_a_time_updates_the_state_in_place(mode: str, gated: bool) -> None:
    x = _mamba_inputs(9)
    want, final = _mamba_reference(x, mode, (0.0, float("inf")))
    z = torch.randn(2, 9, 4, 6)
    state, out = x["initial_states"].clone(), []
    for t in range(9):
        y = _through(
            mamba_step,
            falcon,
            falcon.mamba2_selective_state_update,
            x["o"],
            None,
            mode,
            state,
            x["hidden_states"][:, t],
            x["dt"][:, t, :, None].expand(-1, -1, 6),
            x["A"][:, None, None].expand(-1, 6, 8),
            x["B"][:, t],
            x["C"][:, t],
            x["D"][:, None].expand(-1, 6),
            z=z[:, t] if gated else None,
            dt_bias=x["dt_bias"][:, None].expand(-1, 6),
            dt_softplus=True,
        )
        out.append(y)
    factor = F.silu(z.double()) if gated else 1.0
    torch.testing.assert_close(torch.stack(out, 1).double(), want * factor, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.double(), final, rtol=1e-4, atol=1e-5)
