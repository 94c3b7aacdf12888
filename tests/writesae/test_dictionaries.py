"""Dictionaries: factored loss against the dense one, a planted dictionary found again, codes that depend on nothing else,
resumed training, files and the published checkpoints, parameter counts."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from s0.errors import ConfigError, S0Error
from s0.writesae.dictionaries import ACTIVATIONS, VARIANTS, Code, DictionaryConfig, WriteSAE
from s0.writesae.loss import dense_error, revival_error, write_error
from s0.writesae.train import TrainSettings, evaluate, train

DK, DV = 7, 5


def _config(**changes: Any) -> DictionaryConfig:
    return replace(DictionaryConfig(DK, DV, n_features=20, k=3, threshold=0.05, bandwidth=0.1), **changes)


def _sae(**changes: Any) -> WriteSAE:
    sae = WriteSAE(_config(**changes), torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in sae.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
        sae.scale.fill_(1.7)
    return sae


def _writes(n: int = 30) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    return torch.randn(n, DK, generator=g), torch.randn(n, DV, generator=g)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_factored_loss_equals_the_dense_one_with_gradients(variant: str, rank: int, activation: str) -> None:
    k, u = _writes()
    losses, grads = [], []
    for dense in (False, True):
        sae = _sae(variant=variant, rank=rank, activation=activation)
        if dense:
            x = torch.einsum("nk,nv->nkv", k, u)
            code = sae.activate(sae.scores_of_matrices(x))
            loss = dense_error(sae, x, code)
        else:
            code = sae.activate(sae.scores(k, u))
            loss = write_error(sae, k, u, code)
        loss.sum().backward()
        losses.append(loss.detach())
        grads.append({n: p.grad for n, p in sae.named_parameters()})
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-3)
    for n, g in grads[1].items():
        other = grads[0][n]
        assert (g is None) == (other is None), n
        if g is not None:
            assert other is not None
            scale = float(g.abs().max())
            torch.testing.assert_close(other, g, rtol=1e-3, atol=1e-4 * max(scale, 1.0), msg=n)


def test_revival_loss_is_the_dense_one_up_to_what_the_silent_features_cannot_change() -> None:
    k, u = _writes()
    sae = _sae()
    silent = torch.tensor([1, 5, 6, 11])
    code = sae.activate(sae.scores(k, u))
    residual = torch.einsum("nk,nv->nkv", k, u) - sae.decode(code).detach() / sae.scale
    z = sae.scores(k, u)[:, silent]
    top, at = z.topk(2, dim=1)
    ours = torch.einsum("nm,nmkv->nkv", top.relu(), sae.atoms(silent[at]))
    want = (residual - ours).square().sum((1, 2)).mean() - residual.square().sum((1, 2)).mean()
    got = revival_error(sae, k, u, code, silent, 2)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    wanted = torch.autograd.grad(want, sae.P, retain_graph=True)[0][silent]
    torch.testing.assert_close(torch.autograd.grad(got, sae.P)[0][silent], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_formulas(variant: str) -> None:
    nf, dk, dv = 20, DK, DV
    want = {
        "flat": 2 * nf * dk * dv + nf + dk * dv,
        "rank1": nf * dk * dv + nf * (dk + dv) + nf + dk * dv,
        "bilinear": 2 * nf * (dk + dv) + nf + dk * dv,
        "tied": nf * (dk + dv) + nf + dk * dv,
        "bilinear_flat": nf * (dk + dv) + nf * dk * dv + nf + dk * dv,
    }
    assert _sae(variant=variant).n_parameters() == want[variant]


def test_published_sizes() -> None:
    assert WriteSAE(DictionaryConfig(128, 128)).n_parameters() == 1_067_008


def _planted(seed: int, n: int = 20_000, shuffled: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(100 + seed)
    p = torch.nn.functional.normalize(torch.randn(96, 24, generator=g), dim=1)
    r = torch.nn.functional.normalize(torch.randn(96, 16, generator=g), dim=1)
    which = torch.randint(96, (n,), generator=g)
    k = torch.nn.functional.normalize(p[which] + 0.05 * torch.randn(n, 24, generator=g) / 24**0.5, dim=1)
    u = (0.5 + torch.rand(n, 1, generator=g)) * r[which] + 0.05 * torch.randn(n, 16, generator=g) / 16**0.5
    if shuffled:
        u = u[torch.randperm(n, generator=g)]
    return k, u, p, r


def _found(sae: WriteSAE, p: Tensor, r: Tensor) -> int:
    cos = (sae.P[:, 0] @ p.T) * (sae.R[:, 0] @ r.T)
    return int((cos.max(0).values > 0.95).sum())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_dictionary_is_found_and_shuffled_pairs_are_not(seed: int) -> None:
    settings = TrainSettings(
        steps=600, batch=512, lr=1e-2, dead_after=5_000, resample=100, initialise="random", seed=seed
    )
    config = DictionaryConfig(24, 16, n_features=128, k=1)
    k, u, p, r = _planted(seed)
    assert _found(train(config, (k, u), settings).sae, p, r) >= 94
    k, u, p, r = _planted(seed, shuffled=True)
    assert _found(train(config, (k, u), settings).sae, p, r) < 48


def test_batchtopk_code_of_an_input_does_not_depend_on_its_batch() -> None:
    k, u = _writes(200)
    settings = TrainSettings(steps=30, batch=64, lr=1e-2)
    sae = train(_config(activation="batchtopk"), (k, u), settings).sae
    before = {n: t.clone() for n, t in sae.state_dict().items()}
    whole = sae.encode(k, u).dense(20)
    for row in (0, 7, 199):
        torch.testing.assert_close(sae.encode(k[row : row + 1], u[row : row + 1]).dense(20)[0], whole[row])
    assert float((whole > 0).sum(1).float().mean()) == pytest.approx(3, abs=1.5)
    assert all(torch.equal(t, before[n]) for n, t in sae.state_dict().items())


def test_resumed_training_is_the_uninterrupted_one_bit_for_bit() -> None:
    data = _writes(300)
    settings = TrainSettings(steps=40, batch=8, lr=1e-2, dead_after=8, resample=10)
    kept: dict[str, Any] = {}

    def on_step(step: int, make: Any, loss: float) -> None:
        if step == 23:
            kept.update(copy.deepcopy(make()))

    whole = train(_config(k=1), data, settings, on_step=on_step)
    resumed = train(_config(k=1), data, settings, snapshot=kept)
    assert whole.losses == resumed.losses
    assert whole.revived == resumed.revived > 0
    for (n, a), b in zip(whole.sae.state_dict().items(), resumed.sae.state_dict().values(), strict=True):
        assert torch.equal(a, b), n


def test_perfect_atoms_explain_everything() -> None:
    k = torch.nn.functional.normalize(_writes(20)[0], dim=1)
    u = torch.nn.functional.normalize(_writes(20)[1], dim=1)
    sae = WriteSAE(DictionaryConfig(DK, DV, n_features=20, k=1))
    with torch.no_grad():
        sae.P.copy_(k[:, None]), sae.Pe.copy_(k[:, None])
        sae.R.copy_(u[:, None]), sae.Re.copy_(u[:, None])
    sae.eval()
    values = evaluate(sae, (k, 3 * u))
    assert values["fvu"] < 1e-5
    assert values["l0"] == 1
    assert values["alive"] == 1
    assert float((sae.decode(sae.encode(k, 3 * u)) - torch.einsum("nk,nv->nkv", k, 3 * u)).abs().max()) < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_and_loaded(variant: str, tmp_path: Any) -> None:
    sae = _sae(variant=variant, activation="jumprelu").eval()
    sae.density = torch.rand(20)
    again = WriteSAE.from_pretrained(sae.save(tmp_path / "sae"))
    k, u = _writes()
    torch.testing.assert_close(again.encode(k, u).dense(20), sae.encode(k, u).dense(20))
    torch.testing.assert_close(again.density, sae.density, rtol=1e-4, atol=1e-9)
    assert {p.name for p in (tmp_path / "sae").iterdir()} == {
        "cfg.json",
        "sae_weights.safetensors",
        "sparsity.safetensors",
    }


@pytest.mark.parametrize("flat_factors", [False, True])
@pytest.mark.parametrize("variant", ["bilinear", "rank1", "tied"])
def test_published_checkpoints_load(variant: str, flat_factors: bool, tmp_path: Any) -> None:
    sae = _sae(variant=variant).eval()
    names = {"P": "V_dec", "R": "W_dec"} if variant == "bilinear" else {"P": "V", "R": "W"}
    names |= {"Pe": "V_enc", "Re": "W_enc", "We": "encoder.weight", "bias": "bias"}
    names["b_enc"] = "encoder.bias" if variant == "rank1" else "b_enc"
    state = {names[n]: t.detach() for n, t in sae.named_parameters()}
    if flat_factors:
        state = {n: t[:, 0] if t.ndim == 3 else t for n, t in state.items()}
    torch.save(
        {"model_state_dict": state, "config": {"k": 3}, "epoch": 1, "step": 2, "val_mse": 0.1}, tmp_path / "best.pt"
    )
    again = WriteSAE.from_pretrained(tmp_path)
    assert again.config.variant == variant
    x = torch.einsum("nk,nv->nkv", *_writes())
    torch.testing.assert_close(
        again.encode_matrices(x).dense(20), sae.activate(sae.scores_of_matrices(x)).dense(20), rtol=1e-5, atol=1e-5
    )


def test_what_is_no_dictionary_is_one_line(tmp_path: Any) -> None:
    (tmp_path / "best.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(S0Error, match="not a published dictionary"):
        WriteSAE.load(tmp_path)
    with pytest.raises(S0Error, match="not a saved dictionary"):
        WriteSAE.load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="variant='billinear'"):
        _config(variant="billinear")
    with pytest.raises(ConfigError, match="k=30"):
        _config(k=30)


def test_codes_are_sparse_sums() -> None:
    sae = _sae().eval()
    k, u = _writes(4)
    code = sae.encode(k, u)
    assert isinstance(code, Code)
    assert code.features.shape == (4, 3)
    want = torch.einsum("nm,nmkv->nkv", code.value, sae.atoms(code.features)) + sae.bias
    torch.testing.assert_close(sae.decode(code), want * sae.scale)
