"""`s0 export`: the state a record was measured with, in four forms, each read back by what it is for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from s0.cli import command, main
from s0.state.initial import InitialState
from s0.storage.records import Record, find_records, read_record

LIMITS = ["debug=limits", "method.alpha=0.5", "seed=0..1", "task.n_train=4", "task.n_eval=2", "task.samples_per_problem=4",
          "method.n_steps=2", "engine.threads=1"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    places = [f"{k}={folder / k}" for k in ("store", "records", "out")]
    assert main([*LIMITS, *places]) == 0
    return folder


@pytest.fixture(scope="module")
def record(run: Path) -> Record:
    return read_record(find_records([run / "records"])[0])


pytestmark = pytest.mark.slow


def test_the_state_of_a_run_is_found_and_named(run: Path, record: Record, tmp_path: Path, capsys) -> None:
    out = tmp_path / "state"
    assert command(["export", str(run / "records"), "--seed", str(record.seed), "-o", str(out)]) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    state = InitialState.load(out)
    assert state.alpha == 0.5
    assert state.metadata["record"] == record.key
    norms = state.norms().values()
    assert sum(norms) / len(norms) == pytest.approx(record.training.avg_state_norm)
    card = (out / "README.md").read_text()
    for words in (record.key, "alpha 0.5 (config)", "newly solved", "trainer.load", "random_state"):
        assert words in card


def test_several_states_become_several_folders(run: Path, tmp_path: Path) -> None:
    assert command(["export", str(run / "records"), "-o", str(tmp_path / "all")]) == 0
    folders = sorted(p for p in (tmp_path / "all").iterdir())
    assert len(folders) == 2
    first, second = (InitialState.load(f) for f in folders)
    assert any(not torch.equal(first.tensors[i], second.tensors[i]) for i in first.tensors)


def test_the_published_form_holds_nothing_its_reader_refuses(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "p"
    assert command(["export", str(run / "records"), "--seed", "0", "-o", str(out), "--format", "published"]) == 0
    fields = {"n_steps", "lr", "l2_lambda", "alpha", "normalize", "grad_clip", "max_length"}
    assert set(json.loads((out / "config.json").read_text())) <= fields
    meta = json.loads((out / "meta.json").read_text())
    assert isinstance(meta["state_shape"], list)
    assert meta["arch"] == "gated_delta_net"


def test_the_peft_form_acts_as_the_state(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    import s0.peft
    from s0.paths import EMBEDDED_MODELS

    out = tmp_path / "peft"
    assert command(["export", str(run / "records"), "--seed", "0", "-o", str(out), "--format", "peft"]) == 0
    assert command(["export", str(run / "records"), "--seed", "0", "-o", str(tmp_path / "s0")]) == 0
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(EMBEDDED_MODELS / "tiny_gdn"), str(out))
    read, saved = s0.peft.initial_state(model), InitialState.load(tmp_path / "s0")
    assert read.alpha == saved.alpha
    assert all(torch.equal(read.tensors[i], saved.tensors[i]) for i in saved.tensors)


def test_the_hub_form_needs_a_name_and_has_its_card(run: Path, tmp_path: Path, capsys) -> None:
    argv = ["export", str(run / "records"), "--seed", "0", "-o", str(tmp_path / "h"), "--format", "hub"]
    assert command(argv) == 2
    assert "USER/NAME" in capsys.readouterr().err
    assert command([*argv, "--repo", "me/state"]) == 0
    card = (tmp_path / "h" / "README.md").read_text()
    assert 'snapshot_download("me/state")' in card
    assert card.startswith("---\n")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--seed", "7"], "no record of a learned state"),
        (["--seed", "0", "--format", "gguf"], "choices: s0, published, peft, hub"),
        (["--seed", "0", "--store", "/nowhere"], "give the store the run used"),
    ],
)
def test_what_cannot_be_exported_is_one_line(run: Path, tmp_path: Path, capsys, extra: list[str], words: str) -> None:
    assert command(["export", str(run / "records"), "-o", str(tmp_path / "x"), *extra]) in (1, 2)
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
