"""InitialState: what is saved is what is loaded, and what does not fit is refused in one line."""

from __future__ import annotations

import json

import pytest
import torch

from s0.errors import ArchitectureError, S0Error
from s0.state.families import describe
from s0.state.initial import InitialState
from s0.state.random_models import build


@pytest.fixture(scope="module")
def layout():
    return describe(build("qwen3_5"))


@pytest.fixture
def state(layout):
    return InitialState.random(
        layout, 2.0, seed=0, alpha=0.07, config={"n_steps": 20, "lr": 1e-3}, metadata={"task": "t"}
    )


def test_saved_form_is_the_published_one(state, tmp_path):
    from safetensors.torch import load_file

    state.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "meta.json", "states.safetensors"]
    tensors = load_file(tmp_path / "states.safetensors")
    assert sorted(tensors) == ["0", "2"]
    assert all(t.dtype == torch.float32 for t in tensors.values())
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert (meta["arch"], meta["recurrent_layers"], meta["state_shape"]) == ("gated_delta_net", [0, 2], [4, 8, 12])
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["alpha"], config["normalize"], config["n_steps"]) == (0.07, False, 20)


def test_loaded_again_bit_for_bit(state, layout, tmp_path):
    again = InitialState.load(state.replace(normalize=True).save(tmp_path), layout)
    assert all(torch.equal(again.tensors[i], t) for i, t in state.tensors.items())
    assert (again.alpha, again.normalize, again.architecture) == (0.07, True, "gated_delta_net")
    assert again.config == {"n_steps": 20, "lr": 1e-3}
    assert again.metadata == {"task": "t"}


def test_older_states_pt_is_read(state, layout, tmp_path):
    state.save(tmp_path)
    (tmp_path / "states.safetensors").unlink()
    torch.save({i: t.to(torch.bfloat16) for i, t in state.tensors.items()}, tmp_path / "states.pt")
    again = InitialState.load(tmp_path, layout)
    assert all(torch.allclose(again.tensors[i], t, atol=1e-2) for i, t in state.tensors.items())
    assert all(t.dtype == torch.float32 for t in again.tensors.values())


def test_a_pickle_with_code_in_states_pt_is_not_run(state, tmp_path):
    class Attack:
        def __reduce__(self):
            return (print, ("owned",))

    state.save(tmp_path)
    (tmp_path / "states.safetensors").unlink()
    torch.save({"0": Attack()}, tmp_path / "states.pt")
    with pytest.raises(Exception, match=r"states\.pt|[Ww]eights.only") as caught:
        InitialState.load(tmp_path)
    assert isinstance(caught.value, S0Error)


def test_alpha_null_means_the_architecture_s(state, layout, tmp_path):
    state.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "alpha": None}))
    assert InitialState.load(tmp_path).alpha == 0.07
    assert InitialState.load(tmp_path, layout).alpha == 0.07


def _edit(folder, file, **changes):
    data = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**data, **changes}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: _edit(f, "meta.json", arch="mamba2"), "'mamba2' does not fit"),
        (lambda f: _edit(f, "meta.json", arch=None), "must name the architecture"),
        (lambda f: _edit(f, "meta.json", recurrent_layers=[0, 1]), "mixes two states"),
        (lambda f: _edit(f, "meta.json", state_shape=[4, 8, 8]), "mixes two states"),
        (lambda f: (f / "states.safetensors").unlink(), "no states.safetensors"),
        (lambda f: (f / "states.safetensors").write_bytes(b"torn"), r"states\.safetensors"),
        (lambda f: (f / "meta.json").write_text("{"), "meta.json: cannot be read"),
        (lambda f: (f / "meta.json").write_text("[]"), "JSON object"),
        (lambda f: (f / "config.json").unlink(), "config.json: cannot be read"),
        (lambda f: _edit(f, "config.json", alpha="big"), "alpha='big'"),
        (lambda f: _edit(f, "config.json", alpha=float("nan")), "alpha=nan"),
    ],
)
def test_spoilt_folder_is_one_line(state, layout, tmp_path, spoil, message):
    state.save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(S0Error, match=message) as caught:
        InitialState.load(tmp_path, layout)
    assert "\n" not in str(caught.value)


def test_missing_folder(tmp_path):
    with pytest.raises(S0Error, match=r"meta\.json: cannot be read"):
        InitialState.load(tmp_path / "nothing")


def test_keys_that_are_no_layers(state, tmp_path):
    from safetensors.torch import save_file

    state.save(tmp_path)
    save_file({"layer0": torch.ones(2)}, tmp_path / "states.safetensors")
    with pytest.raises(S0Error, match="layer indices"):
        InitialState.load(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(layout, value):
    bad = torch.zeros(4, 8, 12)
    bad[1, 2, 3] = value
    with pytest.raises(S0Error, match="layer 0: holds NaN or infinity"):
        InitialState({0: bad}, "gated_delta_net")


def test_empty_state_is_refused():
    with pytest.raises(S0Error, match="at least one layer"):
        InitialState({}, "mamba2")


@pytest.mark.parametrize(
    ("tensors", "architecture", "message"),
    [
        ({0: torch.ones(4, 8, 12)}, "mamba2", "does not fit the model's 'gated_delta_net'"),
        ({0: torch.ones(4, 8, 8)}, "gated_delta_net", r"shape \(4, 8, 8\), the model's is \(4, 8, 12\)"),
        ({0: torch.ones(1, 4, 8, 12)}, "gated_delta_net", "shape"),
        ({1: torch.ones(4, 8, 12)}, "gated_delta_net", r"\[1\] are not recurrent layers"),
        ({0: torch.ones(4, 8, 12), 40: torch.ones(4, 8, 12)}, "gated_delta_net", r"\[40\]"),
    ],
)
def test_what_does_not_fit_the_model(layout, tensors, architecture, message):
    with pytest.raises(ArchitectureError, match=message) as caught:
        InitialState(tensors, architecture).check(layout)
    assert "\n" not in str(caught.value)


def test_a_subset_of_layers_fits(layout):
    InitialState({2: torch.ones(4, 8, 12)}, "gated_delta_net").check(layout)


def test_the_given_tensors_are_not_shared():
    mine = torch.ones(2, 2)
    state = InitialState({0: mine}, "mamba2")
    mine.zero_()
    assert float(state.tensors[0].sum()) == 4.0


def test_effective_scales_and_normalises(layout):
    state = InitialState.random(layout, {0: 3.0, 2: 5.0}, seed=1, alpha=0.5)
    assert state.norms() == pytest.approx({0: 3.0, 2: 5.0})
    assert {i: float(t.norm()) for i, t in state.effective().items()} == pytest.approx({0: 1.5, 2: 2.5})
    normal = state.replace(normalize=True)
    assert {i: float(t.norm()) for i, t in normal.effective().items()} == pytest.approx({0: 0.5, 2: 0.5})
    assert state.scaled(4.0).alpha == 2.0


def test_normalising_a_zero_state_stays_zero(layout):
    zero = InitialState.zeros(layout, normalize=True).effective()
    assert not any(bool(t.any()) for t in zero.values())
    assert all(torch.isfinite(t).all() for t in zero.values())


def test_mix_is_linear_and_keeps_layers_only_one_state_has():
    a = InitialState({0: torch.ones(2, 2)}, "mamba2", alpha=2.0)
    b = InitialState({0: torch.ones(2, 2), 1: torch.full((2, 2), 3.0)}, "mamba2", alpha=0.5)
    mixed = InitialState.mix([a, b], [0.5, 2.0])
    assert mixed.alpha == 1.0
    assert torch.equal(mixed.tensors[0], torch.full((2, 2), 0.5 * 2.0 + 2.0 * 0.5))
    assert torch.equal(mixed.tensors[1], torch.full((2, 2), 2.0 * 1.5))


def test_mix_refuses_what_does_not_go_together():
    a, b = InitialState({0: torch.ones(2)}, "mamba2"), InitialState({0: torch.ones(3)}, "mamba2")
    with pytest.raises(ArchitectureError, match="shapes"):
        InitialState.mix([a, b], [1, 1])
    with pytest.raises(ArchitectureError, match="different architectures"):
        InitialState.mix([a, InitialState({0: torch.ones(2)}, "gated_delta_net")], [1, 1])
    with pytest.raises(S0Error, match="one weight per state"):
        InitialState.mix([a], [1, 2])


def test_random_control_has_the_norms_asked_for_and_repeats(layout):
    one, two = (InitialState.random(layout, 1.5, seed=7) for _ in range(2))
    assert all(torch.equal(one.tensors[i], two.tensors[i]) for i in one.tensors)
    assert not torch.equal(one.tensors[0], InitialState.random(layout, 1.5, seed=8).tensors[0])
    assert one.norms() == pytest.approx({0: 1.5, 2: 1.5})


def test_saving_into_an_impossible_place_is_one_line(state, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(S0Error, match="cannot write") as caught:
        state.save(tmp_path / "file" / "sub")
    assert "\n" not in str(caught.value)
