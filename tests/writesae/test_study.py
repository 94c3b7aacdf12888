"""The study's entry: records found again, presets, errors in one line; states decomposed into atoms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from s0.cli import main
from s0.cli.commands.writesae import cells, plan
from s0.config.schema import ModelConfig
from s0.errors import ConfigError, S0Error
from s0.experiment.checkpoint import Checkpoint
from s0.state.families import describe
from s0.state.initial import InitialState
from s0.state.random_models import build
from s0.storage.records import find_records
from s0.storage.store import Store
from s0.writesae.capture import Site
from s0.writesae.decompose import decompose, site_matrix, sparse_state
from s0.writesae.dictionaries import DictionaryConfig, WriteSAE
from s0.writesae.presets import PRESETS
from s0.writesae.run import StudySettings, run_study, split, table

TINY = StudySettings(sequences=30, firings=5, steps=8, batch=64, n_features=16, window=1, state_samples=2)


@pytest.mark.parametrize("kind", ["corrected", "state"])
def test_a_study_is_run_once_and_found_again(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(TINY, input=kind)
    checkpoint = Checkpoint(ModelConfig(name="tiny_gdn", path="embedded:tiny_gdn"))
    first = run_study(checkpoint, Store(tmp_path / "store"), settings, [0], tmp_path / "records")
    assert first[0]["kl"]["null"] == [0.0] * len(first[0]["kl"]["null"])
    text = table(first)
    for row in ("null", "random_atom", "random_direction", "published 92.4 %"):
        assert row in text
    assert find_records([tmp_path / "records"]) == []  # nobody takes it for a record of the other study
    monkeypatch.setattr("s0.writesae.run._captured", None)
    assert run_study(checkpoint, Store(tmp_path / "store"), settings, [0], tmp_path / "records") == first


def test_sequences_are_split_whole() -> None:
    training, heldout = split(20)
    assert not set(training.tolist()) & set(heldout.tolist())
    assert len(training) + len(heldout) == 20


@pytest.mark.parametrize("scale", ["paper", "tiny"])
@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name: str, scale: str) -> None:
    planned = [plan(words) for words in cells([f"experiment={name}", f"scale={scale}", "study=writesae", "seed=3"])]
    for config, settings, _ in planned:
        assert config.seed == [3]
        if scale == "paper" and config.model.name == "qwen35_08b":  # as published
            assert (settings.n_features, settings.k, settings.lr, settings.batch) == (2048, 32, 3e-4, 256)
    if scale == "tiny":
        assert {config.model.name for config, *_ in planned} <= {"tiny_gdn", "tiny_mamba2"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("sit=2.2", "sit: not a setting"),
        ("k=x", "k='x': must be of type int"),
        ("site=22", "LAYER.HEAD"),
        ("experiment=ws_head", "ws_head"),
        ("scale=big", "scale='big'"),
    ],
)
def test_bad_words_are_one_line_and_load_nothing(word: str, message: str, capsys: Any) -> None:
    assert main(["study=writesae", word]) == ConfigError.exit_code
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_state_made_of_atoms_is_decomposed_into_them() -> None:
    layout = describe(build("falcon_h1"))
    g = torch.Generator().manual_seed(0)
    sae = WriteSAE(DictionaryConfig(8, 12, n_features=32, k=1), g)
    site = Site(1, 2)
    state = InitialState.random(layout, 3.0, seed=1)
    planted = sae.atoms(torch.tensor([3, 17])).detach()
    tensor = state.tensors[1].clone()
    tensor[2] = (2 * planted[0] - planted[1]).T  # Mamba-2 keeps [value dim, key dim]
    state = state.replace(tensors={**state.tensors, 1: tensor})
    target = site_matrix(state, layout, site)
    values = decompose(sae, target, counts=(1, 2, 4))
    assert values["atoms"][2] == pytest.approx(1.0, abs=1e-5)
    assert values["svd"][1] >= values["atoms"][1]
    assert values["random"][2] < 0.9
    again = sparse_state(state, layout, {site: sae}, 2)
    torch.testing.assert_close(again.tensors[1], state.tensors[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(sparse_state(state, layout, {site: sae}, 1).tensors[1], state.tensors[1], atol=1e-2)
    with pytest.raises(S0Error, match="8 x 12"):
        decompose(sae, target.T)
