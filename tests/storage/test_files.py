"""Files are whole or absent, and the row form of a record is plain JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from s0.errors import StoreError
from s0.storage.files import atomic_path, write_rows, write_text


def test_rows_are_the_same_json(tmp_path: Path) -> None:
    value = {
        "b": {"outcomes": [{"id": 1, "text": 'a "quoted"\nline'}, {"id": 2, "text": "é"}], "n": 2},
        "a": [1, 2],
        "c": {},
        "d": None,
        "e": [],
        "f": {"x": {"y": {"z": [{"deep": 1}]}}},
    }
    write_rows(tmp_path / "r.json", value)
    text = (tmp_path / "r.json").read_text()
    assert json.loads(text) == value
    assert sum('"id"' in line for line in text.splitlines()) == 2


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "x"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError("killed here")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        write_text(tmp_path / "file" / "below", "x")
