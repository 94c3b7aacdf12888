"""What can be known before work starts is said before it: method against model, folders; and a run that diverged says so."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from s0.cli import main
from s0.cli.commands.run import ROOM, diverged

SMALL = ["debug=limits", "seed=0", "engine.threads=1"]


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["model=tiny_transformer", "method=s0"], 1, "no recurrent layer"),
        (["method=prefix"], 1, "use method=s0 or lora"),
        (["method.layers=[99]"], 2, "method.layers=[99]"),
        (["method=lora", "method.targets=[foo]"], 2, "choose among"),
    ],
)
@pytest.mark.slow
def test_a_method_that_does_not_fit_the_model_is_refused_before_sampling(
    tmp_path: Path, capsys, argv: list[str], code: int, words: str
) -> None:
    places = [f"{k}={tmp_path / k}" for k in ("store", "records", "out")]
    assert main([*SMALL, *places, *argv]) == code
    said = capsys.readouterr()
    assert words in said.err
    assert "sample:" not in said.out
    assert not list((tmp_path / "store").glob("completions/*"))


@pytest.mark.parametrize("key", ["store", "records", "out"])
def test_a_folder_that_is_a_file_is_refused_before_anything_runs(tmp_path: Path, capsys, key: str) -> None:
    (tmp_path / "file").write_text("")
    for dry in ([], ["--dry-run"]):
        assert main([*SMALL, f"{key}={tmp_path / 'file' / 'deeper'}", *dry]) == 2
        assert f"{key}=" in capsys.readouterr().err


def test_a_folder_nobody_may_write_and_a_full_disk(tmp_path: Path, capsys, monkeypatch) -> None:
    import s0.cli.commands.run as command

    monkeypatch.setattr(command.os, "access", lambda path, mode: False)
    assert main([*SMALL, f"records={tmp_path}", "--dry-run"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(command.shutil, "disk_usage", lambda path: type("Usage", (), {"free": ROOM - 1}))
    assert main([*SMALL, f"records={tmp_path}", "--dry-run"]) == 2
    assert "MiB free" in capsys.readouterr().err


def test_a_loss_that_grew_tenfold_is_divergence() -> None:
    assert diverged([0.05, 1e12])
    assert diverged([0.05, math.nan])
    assert not diverged([2.0, 0.4])
    assert not diverged([0.01, 0.05])
    assert not diverged([])
