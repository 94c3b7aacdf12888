"""States travel to the Hub and back; the Hub is a local server that speaks the client's own protocol."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from hub_server import TOKEN, Hub
from huggingface_hub import HfApi, constants

from s0.errors import ArchitectureError, ConfigError, S0Error
from s0.state.families import describe
from s0.state.hub import CardResult, model_card, write_folder
from s0.state.initial import InitialState
from s0.state.random_models import build

MODEL = "Qwen/Qwen3.5-4B"


@pytest.fixture(scope="module")
def layout():
    return describe(build("qwen3_5"))


@pytest.fixture
def state(layout):
    return InitialState.random(layout, 2.0, seed=0, alpha=0.07, config={"n_steps": 20})


@pytest.fixture
def hub(monkeypatch, tmp_path):
    # the client's own switches: its classic transfer protocol, no leftovers of this machine, no proxy in between
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with Hub() as server:
        yield server


def _api(hub, token=TOKEN):
    return HfApi(endpoint=hub.url, token=token)


def _same(a, b):
    assert a.architecture == b.architecture
    assert (a.alpha, a.normalize) == (b.alpha, b.normalize)
    assert list(a.tensors) == list(b.tensors)
    assert all(torch.equal(a.tensors[i], b.tensors[i]) for i in a.tensors)


def _front_matter(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_pushed_and_loaded_again(hub, state, layout):
    url = state.push_to_hub("me/s0-sql", MODEL, api=_api(hub))
    assert url.startswith(f"{hub.url}/me/s0-sql/commit/")
    _same(InitialState.from_pretrained("me/s0-sql", layout, api=_api(hub)), state)
    files = hub.repos["me/s0-sql"].at("main")[1]
    assert set(files) == {".gitattributes", "README.md", "config.json", "meta.json", "states.safetensors"}
    assert _front_matter(files["README.md"].decode())["base_model"] == MODEL
    assert hub.unknown == []
    # the tensors went through the large-file protocol, and only the state's own files came back
    assert ("POST", "/me/s0-sql.git/info/lfs/objects/batch") in hub.requests
    assert not any("README" in path for method, path in hub.requests if method in ("GET", "HEAD"))


def test_second_push_replaces_and_old_revision_stays(hub, state, layout):
    state.push_to_hub("me/s0-sql", MODEL, api=_api(hub))
    first = hub.repos["me/s0-sql"].commits[-1][0]
    other = InitialState.random(layout, 3.0, seed=1, alpha=0.5)
    other.push_to_hub("me/s0-sql", MODEL, api=_api(hub), commit_message="better")
    assert [c[2] for c in hub.repos["me/s0-sql"].commits] == ["initial commit", "Upload S0 state", "better"]
    _same(InitialState.from_pretrained("me/s0-sql", api=_api(hub)), other)
    _same(InitialState.from_pretrained("me/s0-sql", revision=first, api=_api(hub)), state)


def test_private_repository_needs_the_token(hub, state):
    state.push_to_hub("me/secret", MODEL, private=True, api=_api(hub))
    assert hub.repos["me/secret"].private
    with pytest.raises(S0Error, match="me/secret"):
        InitialState.from_pretrained("me/secret", api=HfApi(endpoint=hub.url, token=False))
    _same(InitialState.from_pretrained("me/secret", api=_api(hub)), state)


def test_push_without_login_is_one_line(hub, state):
    with pytest.raises(S0Error, match="hf auth login") as caught:
        state.push_to_hub("me/s0-sql", MODEL, api=_api(hub, token="wrong"))
    assert "\n" not in str(caught.value)
    assert hub.repos == {}


def test_missing_repository_and_server_error_are_one_line(hub):
    with pytest.raises(S0Error, match=r"me/nothing.*check the name") as caught:
        InitialState.from_pretrained("me/nothing", api=_api(hub))
    assert "\n" not in str(caught.value)
    hub.down = True
    with pytest.raises(S0Error, match="me/nothing"):
        InitialState.from_pretrained("me/nothing", api=_api(hub))


def test_snapshot_works_offline_after_the_first_download(hub, state, monkeypatch):
    state.push_to_hub("me/s0-sql", MODEL, api=_api(hub))
    InitialState.from_pretrained("me/s0-sql", api=_api(hub))
    hub.down = True
    _same(InitialState.from_pretrained("me/s0-sql", api=_api(hub)), state)


def test_the_bank_takes_a_repository(hub, state, monkeypatch):
    from s0.bank import StateBank

    state.push_to_hub("me/s0-sql", MODEL, api=_api(hub))
    monkeypatch.setattr("s0.state.hub._default_api", lambda: _api(hub))
    bank = StateBank(build("qwen3_5"))
    bank.add("sql", "me/s0-sql")
    _same(bank.get("sql"), state)


def test_state_of_another_model_is_refused_after_download(hub, state):
    state.push_to_hub("me/s0-sql", MODEL, api=_api(hub))
    with pytest.raises(ArchitectureError, match="gated_delta_net"):
        InitialState.from_pretrained("me/s0-sql", describe(build("falcon_h1")), api=_api(hub))


def test_repository_without_a_state(hub, state):
    _api(hub).create_repo("me/empty")
    with pytest.raises(S0Error, match=r"meta\.json"):
        InitialState.from_pretrained("me/empty", api=_api(hub))


# -- without any network ----------------------------------------------------------------------------------------------


def test_local_folder_needs_no_network(tmp_path, state, layout):
    folder = write_folder(state, tmp_path / "out", "me/s0-sql", MODEL)
    _same(InitialState.from_pretrained(folder, layout), state)
    again = InitialState.from_pretrained(str(folder))
    assert again.metadata["base_model"] == MODEL
    assert again.config["n_steps"] == 20


def test_base_model_is_remembered_or_asked_for(tmp_path, state):
    again = InitialState.from_pretrained(write_folder(state, tmp_path / "a", "me/x", MODEL))
    write_folder(again, tmp_path / "b", "me/y")
    with pytest.raises(ConfigError, match="base_model"):
        write_folder(state, tmp_path / "c", "me/z")


@pytest.mark.parametrize("name", ["./missing", "/no/such/folder", "three/part/name", "missing"])
def test_what_cannot_be_a_repository_is_not_asked_for(name):
    with pytest.raises(S0Error, match="no such folder"):
        InitialState.from_pretrained(name)


def test_card_without_results_claims_none(state):
    data = _front_matter(model_card(state, "me/s0-sql", MODEL))
    assert data["library_name"] == "s0"
    assert data["base_model"] == MODEL
    assert {"s0", "gated-delta-net"} <= set(data["tags"])
    assert "model-index" not in data
    assert "license" not in data
    assert "## Results" not in model_card(state, "me/s0-sql", MODEL)


def test_card_shows_given_results(state):
    result = CardResult("HumanEval", tuned=0.722, base=0.488, seeds=10, p_value=1e-11)
    text = model_card(state, "me/s0-he", MODEL, [result, CardResult("Spider", 0.7)], license="mit")
    assert "| HumanEval | pass@1 | 48.8 % | 72.2 % | +23.4 pp | 10 | 1e-11 |" in text
    assert "| Spider | pass@1 | – | 70.0 % | – | – | – |" in text
    data = _front_matter(text)
    assert data["license"] == "mit"
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == 72.2


def test_card_names_shape_and_size_of_the_state_itself(state):
    text = model_card(state, "me/s0-sql", MODEL)
    assert "2 layers of\nshape 4 × 8 × 12 (gated_delta_net), 3.0 KiB" in text
    assert 'snapshot_download("me/s0-sql")' in text


def test_a_percentage_is_not_taken_for_a_fraction():
    with pytest.raises(ConfigError, match="fraction"):
        CardResult("HumanEval", tuned=72.2)
