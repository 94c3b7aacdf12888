"""Stored records and results are read strictly: whatever else a file holds is one line, never a traceback, never a number."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s0.data import Outcome, Verdict, digest
from s0.errors import StoreError
from s0.paths import ROOT
from s0.storage.decode import DEEPEST
from s0.storage.records import Evaluation, Record, TrainingSummary, find_records, read_record, write_record
from s0.storage.results import AnalysisResult, find_results, read_result, write_result

COMMITTED = ROOT / "experiments" / "records"


def evaluation(passed: str, n: int = 1, **kw: Any) -> Evaluation:
    """One problem per character: how many of its n samples passed."""
    outcomes = [
        Outcome(
            f"P/{i}",
            "    return 1\n\u2028",
            Verdict("pass" if c != "0" else "wrong", "", 0.5, "t"),
            n,
            int(c),
            {"level": 1},
        )
        for i, c in enumerate(passed)
    ]
    return Evaluation("x", "greedy" if n == 1 else "sampled", outcomes, n, 0.0 if n == 1 else 0.7, **kw)


def record(sampled: bool = False) -> Record:
    n, before, after = (3, "0120", "0330") if sampled else (1, "0110", "1110")
    return Record(
        key="00ff", status="ok", experiment="e", model="m", task="t", method="s0", seed=3, alpha=0.5, error=None,
        config={"seed": 3, "method": {"name": "s0", "l2_lambda": 0.1}, "task": {"n_train": None}}, config_hash="c",
        model_info={"name": "m"}, task_info={"name": "t"}, method_info={"label": "s0"},
        training=TrainingSummary(4, 16, 8, 3, [1.0, 0.5], [2.0, 1.0], 0.3, 0.5, "auto", {"0.5": 0.25}, [1.5, 1.0]),
        baseline=evaluation(before, n), tuned=evaluation(after, n), controls={"random_state": evaluation(before, n)},
        baseline_key="b", environment={"commit": None, "versions": {"torch": "2"}}, wall_s={"train": 1.5},
        created="2030-01-01T00:00:00Z", adapter={"key": "k", "folder": "store/adapters-s0/k"},
        evaluation_keys={"baseline": "b", "tuned": "u"},
    )  # fmt: skip


RESULT = AnalysisResult(
    "probe", "e", "m", "t", 3, 0.5, {"score": [0.5, None], "deep": {"x": "y"}}, "k", "c", {}, "2030"
)


def resealed(data: dict[str, Any]) -> dict[str, Any]:
    """With the hash that belongs to the changed contents: what is left to find the fault are the rules."""
    rest = {k: v for k, v in data.items() if k != "sha256"}
    return {**rest, "sha256": digest(rest, 64)}


def refused(read: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(StoreError) as error:
        read(path)
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    assert len(text) < 700
    return text


# -- what is written is read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampled", [False, True])
def test_a_record_is_read_as_it_was_written(sampled: bool, tmp_path: Path) -> None:
    assert read_record(write_record(tmp_path, record(sampled))) == record(sampled)


def test_committed_records_of_any_schema_are_read() -> None:
    paths = find_records([COMMITTED])
    records = [read_record(p) for p in paths[:: max(1, len(paths) // 25)]]
    assert records
    for r in records:
        assert r.training.objective or not r.training.grad_norms
    assert find_results([COMMITTED])


def test_the_loss_of_schema_1_is_called_what_it_was(tmp_path: Path) -> None:
    data = record().to_json()
    for name in ("adapter", "evaluation_keys", "sha256"):
        del data[name]
    data["schema_version"] = 1
    del data["training"]["objective"]
    (tmp_path / "penalty.json").write_text(json.dumps(data))
    old = read_record(tmp_path / "penalty.json")
    assert (old.training.losses, old.training.objective) == ([], [1.0, 0.5])
    assert (old.adapter, old.evaluation_keys) == (None, {"baseline": "b"})
    data["config"]["method"]["l2_lambda"] = 0.0
    (tmp_path / "none.json").write_text(json.dumps(data))
    old = read_record(tmp_path / "none.json")
    assert old.training.losses == old.training.objective == [1.0, 0.5]
    assert read_record(write_record(tmp_path, old)).training == old.training


# -- what says something false ------------------------------------------------------------------------------------------------

#: name -> (change of a record's JSON, words of the refusal)
LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a problem twice": (lambda d: d["tuned"]["outcomes"].append(d["tuned"]["outcomes"][0]), "occurs twice"),
    "c above n": (lambda d: d["tuned"]["outcomes"][0].update(c=7), "c=7 of n=1"),
    "c below 0": (lambda d: d["tuned"]["outcomes"][3].update(c=-1), "c=-1"),
    "a pass that does not count": (lambda d: d["tuned"]["outcomes"][0].update(c=0), "first verdict pass"),
    "another n": (lambda d: d["tuned"]["outcomes"][0].update(n=2), "n=2"),
    "protocol magic": (lambda d: d["tuned"].update(protocol="magic"), "greedy, sampled"),
    "protocol []": (lambda d: d["tuned"].update(protocol=[]), "greedy, sampled"),
    "status great": (lambda d: d.update(status="great"), "ok, no_solutions, failed"),
    "a verdict of its own": (lambda d: d["tuned"]["outcomes"][0]["verdict"].update(kind="fine"), "verdict.kind"),
    "ok without tuned": (lambda d: d.update(tuned=None), "status=ok"),
    "failed with an accuracy": (lambda d: d.update(status="failed", error="x"), "status=failed"),
    "ok with an error": (lambda d: d.update(error="x"), "record.error"),
    "another accuracy": (lambda d: d["tuned"].update(accuracy=1.0), "accuracy=1.0"),
    "no accuracy": (lambda d: d["tuned"].pop("accuracy"), "accuracy=None"),
    "other problems": (lambda d: d["tuned"]["outcomes"][0].update(problem_id="P/9"), "other problems"),
    "fewer problems": (lambda d: d["baseline"]["outcomes"].pop(), "other problems"),
    "no problems": (lambda d: d["baseline"].update(outcomes=[]), "outcomes is empty"),
    "another seed": (lambda d: d.update(seed=4), "config.seed"),
    "another alpha": (lambda d: d.update(alpha=0.7), "training.alpha"),
    "a negative seed": (lambda d: d.update(seed=-3, config={}), "seed=-3"),
    "more passed than sampled": (lambda d: d["training"].update(n_passed=99), "n_passed=99"),
    "a loss too many": (lambda d: d["training"]["losses"].append(1.0), "steps"),
    "a score above 1": (lambda d: d["training"]["alpha_scores"].update({"9": 2.0}), "alpha_scores"),
    "no model": (lambda d: d.update(model=""), "record.model"),
    "a key that is a path": (lambda d: d.update(key="../x"), "record.key"),
    "true for 1": (lambda d: d["tuned"]["outcomes"][0].update(c=True), "true or false"),
    "text for a number": (lambda d: d.update(alpha="0.5"), "record.alpha is text"),
    "a list for an object": (lambda d: d.update(training=[]), "record.training is a list"),
    "an unknown field": (lambda d: d.update(zzz=1), "zzz unknown"),
    "a missing field": (lambda d: d.pop("created"), "created missing"),
    "no date": (lambda d: d.update(created="yesterday"), "record.created"),
    "an adapter without folder": (lambda d: d.update(adapter={"key": "k"}), "record.adapter"),
    "the next schema": (lambda d: d.update(schema_version=3), "schema_version=3"),
    "schema true": (lambda d: d.update(schema_version=True), "schema_version=True"),
    "a new field in schema 1": (lambda d: d.update(schema_version=1), "schema 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_record_that_says_something_false_is_refused(name: str, tmp_path: Path) -> None:
    change, words = LIES[name]
    data = json.loads(write_record(tmp_path, record()).read_text())
    change(data)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(data))
    refused(read_record, path)
    path.write_text(json.dumps(resealed(data)))
    assert words in refused(read_record, path)


def test_any_later_change_to_a_record_is_seen(tmp_path: Path) -> None:
    path = write_record(tmp_path, record())
    path.write_text(path.read_text().replace("return 1", "return 2", 1))
    assert "sha256" in refused(read_record, path)


FILES = {
    "empty": b"", "null": b"null", "list": b"[]", "number": b"3", "text": b'"x"', "deep": b"[" * 200_000,
    "nested": b'{"a":' * 900 + b"1" + b"}" * 900, "binary": bytes(range(256)), "utf-16": "{}".encode("utf-16"),
    "long number": b"9" * 10_000, "NaN": b'{"a": NaN}', "infinite": b'{"a": 1e999}', "twice": b'{"a": 1, "a": 2}',
    "surrogate": b'{"a": "\\ud800"}', "two values": b"{} {}", "a huge line": b'"' + b"x" * 3_000_000,
}  # fmt: skip


@pytest.mark.parametrize("read", [read_record, read_result])
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_something_else_is_refused(name: str, read: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "m__t__s0__seed0__k.json"
    path.write_bytes(FILES[name])
    refused(read, path)


@pytest.mark.parametrize("read", [read_record, read_result])
def test_files_that_are_no_files_and_files_without_end_are_refused(read: Callable[[Path], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with open(tmp_path / "sparse", "wb") as f:
        f.truncate(2**40)
    for path in (
        tmp_path / "pipe",
        tmp_path,
        tmp_path / "loop",
        tmp_path / "sparse",
        tmp_path / "no",
        Path("/dev/zero"),
    ):
        refused(read, path)


def test_a_value_nested_deeper_than_any_record_is_refused(tmp_path: Path) -> None:
    path = write_record(tmp_path, record())
    data, deep = json.loads(path.read_text()), "x"
    for _ in range(DEEPEST + 2):
        deep = [deep]  # type: ignore[assignment]
    data["config"]["deep"] = deep
    path.write_text(json.dumps(resealed(data)))
    assert "nested" in refused(read_record, path)


# -- fuzz ------------------------------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    10**40,
    "",
    "x",
    "\u2028",
    [],
    [1],
    [[]],
    {},
    {"a": 1},
    {"a": {"b": []}},
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [path, *(p for k, v in items for p in places(v, (*path, k)))]


def mutate(data: Any, rng: random.Random) -> Any:
    """One to three random changes: a value replaced, a key or item removed, doubled or renamed."""
    data = copy.deepcopy(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        path = rng.choice(places(data)[1:] or [()])
        if not path:
            return copy.deepcopy(rng.choice(VALUES))
        inside = data
        for step in path[:-1]:
            inside = inside[step]
        action = rng.choice(["replace", "replace", "replace", "remove", "add", "swap"])
        if action == "remove":
            del inside[path[-1]]
        elif action == "add":
            if isinstance(inside, list):
                inside.append(copy.deepcopy(rng.choice([*VALUES, *inside])))
            else:
                inside[rng.choice(["zzz", "", "n"])] = copy.deepcopy(rng.choice(VALUES))
        elif action == "swap":
            other = data
            for step in rng.choice(places(data)):
                other = other[step]
            inside[path[-1]] = copy.deepcopy(other)
        else:
            inside[path[-1]] = copy.deepcopy(rng.choice(VALUES))
    return data


def damage(raw: bytes, rng: random.Random) -> bytes:
    at, n = rng.randrange(len(raw)), rng.choice([1, 1, 3, 50])
    return rng.choice(
        [raw[:at], raw[:at] + raw[at + n :], raw[:at] + rng.randbytes(n) + raw[at + n :], raw[at:] + raw[:at]]
    )


def same_json(raw: bytes, value: Any) -> bool:
    try:
        return bool(json.loads(raw) == value)
    except (ValueError, RecursionError):
        return False


def test_500_changed_records_are_refused_or_say_the_same(tmp_path: Path) -> None:
    """Without the hash that belongs to it no changed record is read. With it (somebody made it so) what is read is what the
    file says, field by field, and what a table takes from it is consistent."""
    rng, path, read = random.Random(0), tmp_path / "r.json", 0
    for n in range(500):
        original = record(sampled=bool(n % 2)).to_json()
        if n % 5 == 0:
            raw = json.dumps(original).encode()
            changed = damage(raw, rng)
            path.write_bytes(changed)
            same = same_json(changed, original)
        else:
            data = mutate(original, rng)
            same = data == original
            path.write_text(json.dumps(data))
        if not same:
            refused(read_record, path)
        if n % 5 == 0 or not isinstance(data, dict):
            continue
        path.write_text(json.dumps(resealed(data)))
        try:
            r = read_record(path)
        except StoreError:
            continue
        read += 1
        assert r.to_json() == {**json.loads(path.read_text()), "schema_version": 2}
        assert r.tuned is not None
        assert 0 <= r.tuned.accuracy <= 1
        assert set(r.flips()[0]) <= {o.problem_id for o in r.tuned.outcomes}
    assert read > 20, "free fields (texts, config, environment) may hold anything"


def test_500_changed_results_are_refused_or_say_the_same(tmp_path: Path) -> None:
    rng, read = random.Random(1), 0
    path = write_result(tmp_path, RESULT)
    original = json.loads(path.read_text())
    assert read_result(path) == RESULT
    for n in range(500):
        if n % 5 == 0:
            changed = damage(json.dumps(original).encode(), rng)
            path.write_bytes(changed)
            if not same_json(changed, original):
                refused(read_result, path)
            continue
        data = mutate(original, rng)
        path.write_text(json.dumps(data))
        if data != original:
            refused(read_result, path)
        if not isinstance(data, dict):
            continue
        path.write_text(json.dumps(resealed(data)))
        try:
            r = read_result(path)
        except StoreError:
            continue
        read += 1
        assert vars(r) == {k: v for k, v in json.loads(path.read_text()).items() if k != "sha256"}
    assert read > 20
