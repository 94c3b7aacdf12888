"""Logs, folders and claims: torn lines, foreign lines, full disks, read-only folders. Every attack is named."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from s0.errors import StoreError
from s0.storage.records import find_record, read_record, write_record
from s0.storage.store import Log, Store

from store_load import record  # isort: skip


def test_a_log_returns_what_was_appended(tmp_path: Path) -> None:
    log = Log(tmp_path / "deep" / "log.jsonl")
    assert log.refresh() == {}
    log.append({})
    assert not log.path.exists()
    log.append({"a": [1], "b": "é\n\u2028"})
    log.append({"c": None})
    assert log.refresh() == {"a": [1], "b": "é\n\u2028", "c": None}
    assert Log(log.path).refresh() == log.refresh()


def test_the_first_value_of_a_unit_counts_for_every_reader(tmp_path: Path) -> None:
    early, late = Log(tmp_path / "l"), Log(tmp_path / "l")
    early.append({"a": 1})
    early.refresh()
    late.append({"a": 2, "b": 3})
    assert early.refresh() == late.refresh() == Log(tmp_path / "l").refresh() == {"a": 1, "b": 3}


def test_a_line_torn_at_any_byte_costs_only_itself(tmp_path: Path) -> None:
    whole = Log(tmp_path / "whole")
    whole.append({"a": {"text": "é\n"}})
    first = whole.path.read_bytes()
    whole.append({"b": {"text": "ü\\"}})
    data = whole.path.read_bytes()
    for cut in range(len(first), len(data) + 1):
        path = tmp_path / f"cut{cut}"
        path.write_bytes(data[:cut])
        reader = Log(path)
        before = dict(reader.refresh())
        assert before == ({"a": {"text": "é\n"}} if cut < len(data) else whole.refresh())
        Log(path).append({"c": 3})
        expected = {"a": {"text": "é\n"}, "c": 3}
        # a line that lacks only its end is whole once the next append has ended it
        assert reader.refresh() == (expected if cut < len(data) - 1 else {**whole.refresh(), "c": 3})
        assert Log(path).refresh() == reader.refresh()


@pytest.mark.parametrize(
    "junk", [b"\0" * 40, b"3", b"null", b"[]", b'{"k": "x"}', b'{"v": 1}', b"\xff\xfe", b'{"k": []}', b""]
)
def test_foreign_lines_are_skipped(junk: bytes, tmp_path: Path) -> None:
    path = tmp_path / "l"
    path.write_bytes(b'{"k": "a", "v": 1}\n' + junk + b'\n{"k": "b", "v": 2}\n')
    assert Log(path).refresh() == {"a": 1, "b": 2}


def test_two_units_run_together_are_both_dropped_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "l"
    path.write_bytes(b'{"k": "a", "v": 1}{"k": "b", "v": 2}\n{"k": "c", "v": 3}\n')
    assert Log(path).refresh() == {"c": 3}


def test_a_reader_sees_a_half_written_line_only_when_it_is_whole(tmp_path: Path) -> None:
    log = Log(tmp_path / "l")
    log.append({"a": 1})
    log.refresh()
    with open(log.path, "ab") as f:
        f.write(b'{"k": "b", ')
        f.flush()
        assert log.refresh() == {"a": 1}
        f.write(b'"v": 2}\n')
    assert log.refresh() == {"a": 1, "b": 2}


def test_a_deleted_store_is_empty_not_remembered(tmp_path: Path) -> None:
    log = Log(tmp_path / "l")
    log.append({"a": 1, "b": 2})
    log.refresh()
    log.path.unlink()
    assert log.refresh() == {}
    log.append({"c": 3})
    assert log.refresh() == {"c": 3}


def test_nan_is_refused_and_leaves_the_log_whole(tmp_path: Path) -> None:
    log = Log(tmp_path / "l")
    log.append({"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        log.append({"b": float("nan")})
    assert Log(log.path).refresh() == {"a": 1}


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail_half_way() -> None:
        with store.new_folder("adapters", "k") as folder:
            (folder / "half").write_text("x")
            assert not store.has_folder("adapters", "k")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail_half_way()
    assert list((tmp_path / "adapters").iterdir()) == []
    with store.new_folder("adapters", "k") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "f").write_text("1")
    assert (store.folder("adapters", "k") / "sub" / "f").read_text() == "1"
    with store.new_folder("adapters", "k") as folder:  # somebody finished first: the first stays
        (folder / "f").write_text("2")
    assert not (store.folder("adapters", "k") / "f").exists()


def test_leftovers_of_killed_processes_are_removed_when_they_are_old(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name, age in ((".k.old.tmp", 2 * 86400), (".k.new.tmp", 0)):
        (tmp_path / "adapters" / name).mkdir(parents=True)
        os.utime(tmp_path / "adapters" / name, (os.stat(tmp_path).st_mtime - age,) * 2)
    with store.new_folder("adapters", "k"):
        pass
    assert sorted(p.name for p in (tmp_path / "adapters").iterdir()) == [".k.new.tmp", "k"]


def test_a_claim_is_exclusive_within_a_process_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim("x", wait=False) as first, Store(tmp_path).claim("x", wait=False) as second:
        assert (first, second) == (True, False)
    with store.claim("x", wait=False) as again:
        assert again


def test_asking_who_holds_a_claim_does_not_create_it(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").holder_of("x") is None
    assert not (tmp_path / "none").exists()


# -- full and read-only disks --------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"mount: {made.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def one_line(error: pytest.ExceptionInfo[StoreError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for w in words:
        assert w in text


def test_a_full_disk_is_one_clear_error_and_loses_nothing(small_disk: Path) -> None:
    log = Log(small_disk / "completions" / "l.jsonl")
    stored = {}

    def fill() -> None:
        for n in range(1000):
            log.append({str(n): "x" * 3000})
            stored[str(n)] = "x" * 3000

    with pytest.raises(StoreError) as error:
        fill()
    one_line(error, "No space left", str(log.path), "finished work is kept", "store=")
    assert 50 < len(stored) < 1000
    assert Log(log.path).refresh() == stored
    assert log.path.read_bytes().endswith(b"\n"), "the part that fitted was taken back"
    with pytest.raises(StoreError) as error, Store(small_disk).new_folder("adapters", "k") as folder:
        (folder / "f").write_bytes(b"x" * 600_000)
    one_line(error, "No space left", "adapters/k")
    assert list((small_disk / "adapters").iterdir()) == []
    with pytest.raises(StoreError) as error:
        write_record(small_disk / "records", record(1), [{"text": "x" * 600_000}])
    one_line(error, "No space left")
    assert not list((small_disk / "records").glob("*")), "neither half a record nor a leftover"
    # the claim's note may not fit, the claim itself does
    with Store(small_disk).claim("x") as mine:
        assert mine
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    log.append({"more": 1})
    assert Log(log.path).refresh() == {**stored, "more": 1}


def test_a_read_only_folder_is_one_clear_error_and_still_readable(small_disk: Path) -> None:
    store = Store(small_disk)
    store.log("completions", "l").append({"a": 1})
    write_record(small_disk / "records", record(1))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert Store(small_disk).log("completions", "l").refresh() == {"a": 1}
    assert find_record(small_disk / "records", record(1).key) is not None
    attacks = {
        "append": lambda: store.log("completions", "l").append({"b": 2}),
        "new log": lambda: store.log("completions", "new").append({"b": 2}),
        "folder": lambda: store.new_folder("adapters", "k").__enter__(),
        "claim": lambda: store.claim("x").__enter__(),
        "record": lambda: write_record(small_disk / "records", record(2)),
    }
    for name, attack in attacks.items():
        with pytest.raises(StoreError) as error:
            attack()
        one_line(error, "Read-only file system", str(small_disk)), name
    assert Store(small_disk).holder_of("x") is None


# -- records of other versions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 3, None, "1"])
def test_a_record_of_another_schema_version_is_refused_by_name(version: object, tmp_path: Path) -> None:
    path = write_record(tmp_path, record(1))
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    for read in (lambda: read_record(path), lambda: find_record(tmp_path, record(1).key)):
        with pytest.raises(StoreError) as error:
            read()
        one_line(error, path.name, f"schema_version={version!r}", "rerun the cell")


def test_a_torn_record_is_refused_by_name(tmp_path: Path) -> None:
    path = write_record(tmp_path, record(1))
    whole = path.read_text()
    for cut in (0, 1, len(whole) // 2, len(whole) - 2):
        path.write_text(whole[:cut])
        with pytest.raises(StoreError) as error:
            read_record(path)
        one_line(error, path.name, "not a readable record")


def test_work_of_another_version_is_named_once_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "store")
    store.claim_layout(3)
    assert not capsys.readouterr().err  # a new store holds nothing of anybody
    store.log("completions", "l").append({"a": 1})
    Store(tmp_path / "store").claim_layout(3)
    assert not capsys.readouterr().err
    for _ in range(2):
        Store(tmp_path / "store").claim_layout(4)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "holds work of another version of this code, which is not used" in said
    assert store.log("completions", "l").refresh() == {"a": 1}
    (tmp_path / "old" / "completions").mkdir(parents=True)  # before layouts were marked
    Store(tmp_path / "old").claim_layout(4)
    assert "another version" in capsys.readouterr().err
