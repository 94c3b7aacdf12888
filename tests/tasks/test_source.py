"""Loading: every local form, every way data can be wrong, and the real data sets' columns and types."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value

from s0.config.registry import TASKS
from s0.data import Problem
from s0.errors import DataError
from s0.tasks import make_task
from s0.tasks.benchmark import check_disjoint
from s0.tasks.source import Source

DATA = Path(__file__).parents[1] / "data"
ROWS = [{"question": f"q{i}", "answer": f"so\n#### {i}"} for i in range(6)]


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def load(path, name="gsm8k"):
    task = make_task(name, {"path": str(path)})
    return [p.prompt for p in task.problems("train")], [p.prompt for p in task.problems("heldout")]


def error(config, name="gsm8k") -> str:
    with pytest.raises(DataError) as caught:
        make_task(name, config).problems("train")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(name)
    return message


BOTH = (["q0", "q1"], ["q2", "q3", "q4", "q5"])
HALVES = (["q0", "q1", "q2"], ["q3", "q4", "q5"])


def test_jsonl_folder(tmp_path):
    (tmp_path / "train.jsonl").write_text(lines(ROWS[:2]))
    (tmp_path / "test.jsonl").write_text(lines(ROWS[2:]) + "\n\n")
    (tmp_path / "README.md").write_text("notes")
    assert load(tmp_path) == BOTH


def test_json_list_and_gzip(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(ROWS[:2]))
    (tmp_path / "test.jsonl.gz").write_bytes(gzip.compress(lines(ROWS[2:]).encode()))
    assert load(tmp_path) == BOTH


def test_parquet_shards_as_on_the_hub(tmp_path):
    folder = tmp_path / "main"
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS[:2]), folder / "train-00000-of-00001.parquet")
    for shard in (0, 1):
        table = pyarrow.Table.from_pylist(ROWS[2 + 2 * shard : 4 + 2 * shard])
        pyarrow.parquet.write_table(table, folder / f"test-0000{shard}-of-00002.parquet")
    assert load(tmp_path) == BOTH


def test_saved_dataset_dict(tmp_path):
    DatasetDict({"train": Dataset.from_list(ROWS[:2]), "test": Dataset.from_list(ROWS[2:])}).save_to_disk(
        tmp_path / "saved"
    )
    assert load(tmp_path / "saved") == BOTH


def test_saved_dataset_is_halved(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert load(tmp_path / "saved") == HALVES


def test_one_file_is_halved(tmp_path):
    (tmp_path / "mine.jsonl").write_text(lines(ROWS))
    assert load(tmp_path / "mine.jsonl") == HALVES
    assert load(tmp_path) == HALVES


def test_all_forms_have_one_hash(tmp_path):
    (tmp_path / "train.jsonl").write_text(lines(ROWS[:2]))
    (tmp_path / "test.jsonl").write_text(lines(ROWS[2:]))
    DatasetDict({"train": Dataset.from_list(ROWS[:2]), "test": Dataset.from_list(ROWS[2:])}).save_to_disk(
        tmp_path / "saved"
    )
    hashes = {make_task("gsm8k", {"path": str(p)}).dataset_hash() for p in (tmp_path, tmp_path / "saved")}
    assert len(hashes) == 1
    (tmp_path / "test.jsonl").write_text(lines([*ROWS[2:5], {"question": "q5", "answer": "#### 99"}]))
    assert make_task("gsm8k", {"path": str(tmp_path)}).dataset_hash() not in hashes


def test_published_split_of_full_size_tables(tmp_path):
    rows = [{"question": f"question {i}", "answer": f"#### {i}"} for i in range(300 + 1319)]
    (tmp_path / "train.jsonl").write_text(lines(rows[:300]))
    (tmp_path / "test.jsonl").write_text(lines(rows[300:]))
    train, heldout = load(tmp_path)
    assert train == [f"question {i}" for i in range(200)]
    assert heldout == [f"question {i}" for i in range(300, 300 + 1319)]


def test_math500_is_the_first_and_the_other_250_rows(tmp_path):
    row = json.loads((DATA / "math500" / "test.jsonl").read_text().splitlines()[0])
    rows = [{**row, "problem": f"p{i}", "unique_id": f"test/{i}.json"} for i in range(500)]
    (tmp_path / "test.jsonl").write_text(lines(rows))
    train, heldout = load(tmp_path, "math500")
    assert train == [f"p{i}" for i in range(250)]
    assert heldout == [f"p{i}" for i in range(250, 500)]


# ---- every way data can be wrong ----


def test_missing_path_says_where_to_put_what(tmp_path):
    message = error({"path": str(tmp_path / "nowhere"), "hub_id": "openai/gsm8k"})
    assert "does not exist" in message
    assert "openai/gsm8k" in message


def test_nothing_given():
    assert "set task.path=" in error({})


def test_empty_file(tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    (tmp_path / "test.jsonl").write_text(lines(ROWS))
    assert "split train is empty" in error({"path": str(tmp_path)})


def test_empty_folder(tmp_path):
    assert "holds no data file" in error({"path": str(tmp_path)})


def test_missing_column_names_it_and_what_there_is(tmp_path):
    (tmp_path / "mine.jsonl").write_text(lines([ROWS[0], {"question": "q", "reply": "r"}]))
    message = error({"path": str(tmp_path)})
    assert "row 1 has no column 'answer' (it has question, reply)" in message


@pytest.mark.parametrize("value", [None, 5, True, ["x"]])
def test_wrong_type_names_row_and_column(tmp_path, value):
    (tmp_path / "mine.jsonl").write_text(lines([ROWS[0], {"question": "q", "answer": value}]))
    assert "row 1: column 'answer' holds" in error({"path": str(tmp_path)})


def test_level_must_be_an_integer(tmp_path):
    row = json.loads((DATA / "math500" / "test.jsonl").read_text().splitlines()[0])
    (tmp_path / "test.jsonl").write_text(lines([{**row, "level": "Level 5"}]))
    assert "column 'level' holds str; it must hold int" in error({"path": str(tmp_path)}, "math500")


def test_duplicated_id(tmp_path):
    row = json.loads((DATA / "math500" / "test.jsonl").read_text().splitlines()[0])
    rows = [{**row, "problem": f"p{i}", "unique_id": f"id{i % 3}"} for i in range(4)]
    (tmp_path / "test.jsonl").write_text(lines(rows))
    assert "id 'id0' occurs in both parts" in error({"path": str(tmp_path)}, "math500")


def test_same_question_in_both_parts(tmp_path):
    (tmp_path / "train.jsonl").write_text(lines(ROWS[:2]))
    (tmp_path / "test.jsonl").write_text(lines(ROWS[1:]))
    assert "'gsm8k/test/0' has the prompt of training problem 'gsm8k/train/1'" in error({"path": str(tmp_path)})


def test_check_disjoint_directly():
    a, b = Problem("a", "pa", "r"), Problem("b", "pb", "r")
    check_disjoint("t", [a], [b])
    for train, heldout, words in (
        ([a, a], [b], "twice in the training part"),
        ([a], [b, b], "twice in the held-out part"),
        ([], [b], "training part is empty"),
        ([a], [], "held-out part is empty"),
        ([a], [Problem("c", " pa\n", "r")], "must not overlap"),
    ):
        with pytest.raises(DataError, match=words):
            check_disjoint("t", train, heldout)


def test_gold_without_a_number(tmp_path):
    (tmp_path / "mine.jsonl").write_text(lines([ROWS[0], {"question": "q", "answer": "no marker"}]))
    assert "does not end in '#### NUMBER'" in error({"path": str(tmp_path)})


def test_broken_json_names_the_line(tmp_path):
    (tmp_path / "mine.jsonl").write_text(lines(ROWS) + '{"question": \n')
    assert "line 7 is not valid JSON" in error({"path": str(tmp_path)})
    (tmp_path / "mine.jsonl").write_text("[1, 2]\n")
    assert "line 1 is not a JSON object" in error({"path": str(tmp_path)})
    (tmp_path / "mine.jsonl").unlink()
    (tmp_path / "mine.json").write_text('{"question": "q"}')
    assert "not a JSON list of objects" in error({"path": str(tmp_path)})
    (tmp_path / "mine.json").write_text("[")
    assert "not valid JSON" in error({"path": str(tmp_path)})


def test_damaged_binary_files(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no parquet")
    assert "not a readable Parquet file" in error({"path": str(tmp_path)})
    (tmp_path / "train.parquet").unlink()
    (tmp_path / "train.jsonl.gz").write_bytes(b"\x1f\x8b no gzip")
    assert "cannot be read" in error({"path": str(tmp_path)})
    (tmp_path / "train.jsonl.gz").unlink()
    (tmp_path / "train.jsonl").write_bytes(b'{"question": "\xff"}')
    assert "line 1 is not UTF-8 (byte 15)" in error({"path": str(tmp_path)})
    (tmp_path / "state.json").write_text("{}")
    assert "not a readable saved data set" in error({"path": str(tmp_path)})


def test_unknown_format(tmp_path):
    (tmp_path / "rows.xlsx").write_text("question,answer\n")
    assert "unknown format" in error({"path": str(tmp_path / "rows.xlsx")})


def test_several_files_for_one_split(tmp_path):
    (tmp_path / "train.jsonl").write_text(lines(ROWS))
    (tmp_path / "train.json").write_text(json.dumps(ROWS))
    assert "several files claim to be split train" in error({"path": str(tmp_path)})


def test_wrong_splits(tmp_path):
    (tmp_path / "train.jsonl").write_text(lines(ROWS))
    (tmp_path / "dev.jsonl").write_text(lines(ROWS))
    assert "has the splits validation, train; expected train and test" in error({"path": str(tmp_path)})


# ---- the hub ----


def test_offline_hub_is_one_line_with_the_way_out(tmp_path):
    """A process that may not reach the hub and has nothing cached."""
    code = (
        "from s0.tasks import make_task\nfrom s0.errors import DataError\n"
        "try:\n    make_task('gsm8k', {'hub_id': 'openai/gsm8k', 'hub_revision': 'abc123'}).problems('train')\n"
        "except DataError as error:\n    print(error)\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(DATA.parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert line.startswith("gsm8k: cannot load openai/gsm8k from the hub")
    assert "hf download openai/gsm8k --repo-type dataset --revision abc123 --local-dir data/gsm8k" in line
    assert line.endswith("give task.path=data/gsm8k")


def test_hub_data_of_the_wrong_size_is_refused(monkeypatch):
    """The published split needs the published number of rows; the loader is the only thing replaced here."""
    loaded = DatasetDict({"train": Dataset.from_list(ROWS[:2]), "test": Dataset.from_list(ROWS[2:])})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: loaded)
    assert "gives 2 training and 4 held-out rows" in error({"hub_id": "openai/gsm8k"})


# Columns and types as the data sets' pages on the hub publish them.
PUBLISHED: dict[str, tuple[str, dict[str, Features]]] = {
    "math500": (
        "test",
        {
            "test": Features(
                {
                    "problem": Value("string"),
                    "solution": Value("string"),
                    "answer": Value("string"),
                    "subject": Value("string"),
                    "level": Value("int64"),
                    "unique_id": Value("string"),
                }
            )
        },
    ),
    "gsm8k": (
        "test",
        {split: Features({"question": Value("string"), "answer": Value("string")}) for split in ("train", "test")},
    ),
    "spider": (
        "validation",
        {
            split: Features(
                {
                    "db_id": Value("string"),
                    "query": Value("string"),
                    "question": Value("string"),
                    "query_toks": List(Value("string")),
                    "query_toks_no_value": List(Value("string")),
                    "question_toks": List(Value("string")),
                }
            )
            for split in ("train", "validation")
        },
    ),
}


@pytest.mark.parametrize("form", ["saved", "parquet"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_loads_the_published_columns_and_types(tmp_path, name, form):
    """The fixture, cast to the published features (which fails unless it has exactly those), loads in both binary forms."""
    _, features = PUBLISHED[name]
    tables = {}
    for split, kinds in features.items():
        rows = [json.loads(line) for line in (DATA / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert {tuple(row) for row in rows} == {tuple(kinds)}
        tables[split] = Dataset.from_list(rows, features=kinds)
    config = {"path": str(tmp_path / form)}
    if name == "spider":
        config["database_dir"] = str(DATA / "spider" / "database")
    if form == "saved":
        DatasetDict(tables).save_to_disk(tmp_path / form)
    else:
        (tmp_path / form).mkdir()
        for split, table in tables.items():
            table.to_parquet(tmp_path / form / f"{split}-00000-of-00001.parquet")
    task, plain = make_task(name, config), make_task(name, {"path": str(DATA / name)})
    assert task.dataset_hash() == plain.dataset_hash()
    assert len(task.problems("train")) >= 20
    assert len(task.problems("heldout")) >= 20
    for part in ("train", "heldout"):
        for problem in task.problems(part):
            assert set(task.breakdowns) <= set(problem.meta)


def test_source_label_names_the_revision():
    assert Source("t", {}, hub_id="a/b", hub_revision="123").label == "hub a/b@123"
    assert "no revision pinned" in Source("t", {}, hub_id="a/b").label


def test_registry_is_light_and_complete():
    code = (
        "import sys\nfrom s0.tasks import make_task, TASKS\nfor name in TASKS: make_task(name)\n"
        "print([m for m in ('torch', 'datasets', 'math_verify', 'sympy', 'transformers') if m in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(DATA.parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    published = {"minieval", "humaneval", "math500", "gsm8k", "spider"}
    assert set(TASKS) == published | {"humaneval_plus", "mbpp", "mbpp_plus", "custom"}


# ---- files as they come: marks, line ends, ids, missing columns, splits; and as they should not ----

HUMAN = [
    {"task_id": i, "prompt": f"def f{i}(x):\n", "entry_point": f"f{i}", "test": "def check(f):\n    pass\n"}
    for i in range(6)
]


def test_byte_order_mark_and_carriage_returns_are_read(tmp_path):
    text = lines(ROWS).replace("\n", "\r\n")
    (tmp_path / "mine.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load(tmp_path / "mine.jsonl") == HALVES


def test_separators_inside_json_strings_do_not_end_a_line(tmp_path):
    rows = [{**row, "question": row["question"] + "\u2028\u0085\u2029\x0c"} for row in ROWS]
    (tmp_path / "mine.jsonl").write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8"
    )
    assert load(tmp_path / "mine.jsonl")[0] == [row["question"] for row in rows[:3]]


def test_integer_ids_and_missing_reference_solutions_are_read(tmp_path):
    (tmp_path / "mine.jsonl").write_text(lines(HUMAN))
    task = make_task("humaneval", {"path": str(tmp_path / "mine.jsonl")})
    assert [p.id for p in task.problems("train")] == ["0", "1", "2"]
    assert all(row["canonical_solution"] == "" for row in task.read_rows())


def test_a_training_and_a_test_table_are_the_two_parts(tmp_path):
    rows = [{**row, "task_id": str(row["task_id"])} for row in HUMAN]
    DatasetDict({"train": Dataset.from_list(rows[:4]), "test": Dataset.from_list(rows[4:])}).save_to_disk(
        tmp_path / "d"
    )
    task = make_task("humaneval", {"path": str(tmp_path / "d")})
    assert [[p.id for p in task.problems(part)] for part in ("train", "heldout")] == [["0", "1", "2", "3"], ["4", "5"]]
    assert "rows 0-3 train, 4-5 held out" in task.source


def test_csv_and_tsv(tmp_path):
    import csv

    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        with open(tmp_path / f"mine{suffix}", "w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, ["question", "answer"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS)
        assert load(tmp_path / f"mine{suffix}") == HALVES


GOOD = json.dumps(ROWS[0]) + "\n"
DEEP = "[" * 200_000
MALFORMED = {
    "deep.jsonl": (GOOD + DEEP + "\n", "line 2 is nested too deeply"),
    "deep.json": (DEEP, "nested too deeply"),
    "surrogate.jsonl": (GOOD + '{"question": "\\ud800", "answer": "#### 1"}\n', "line 2 holds half a character"),
    "not_utf8.jsonl": (GOOD.encode() + b'{"question": "\xff"}', "line 2 is not UTF-8 (byte 15)"),
    "broken.jsonl": (GOOD + "{", "line 2 is not valid JSON"),
    "number.jsonl": (GOOD + '{"question": ' + "9" * 5000 + "}", "line 2 is not valid JSON"),
    "list.jsonl": (GOOD + "[]", "line 2 is not a JSON object"),
    "short.csv": ("question,answer\na\n", "line 2: 1 fields, the head has 2"),
    "quote.csv": ('question,answer\n"a,b\n', "is not valid CSV"),
    "twice.csv": ("question,question\n", "not distinct words"),
    "cut.jsonl.gz": (gzip.compress(lines(ROWS * 50).encode())[:-20], "cannot be read"),
    "flipped.jsonl.gz": (b"\x1f\x8b\x08" + b"\0" * 7 + b"\xff" * 40, "cannot be read"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_one_line_with_its_place(tmp_path, name):
    content, expected = MALFORMED[name]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    message = error({"path": str(tmp_path / name)})
    assert expected in message
    assert name in message
    assert "; " in message


@pytest.mark.parametrize("unit", [b" ", b"\n"])
def test_attack_blanks_without_end_in_a_small_archive(tmp_path, monkeypatch, unit):
    """Gigabytes of blanks compress to a few megabytes; reading stops at the limits and holds one row at a time."""
    import tracemalloc

    from s0.tasks import rows

    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 1 << 20)
    monkeypatch.setattr(rows, "MAX_FILE_BYTES", 8 << 20)
    (tmp_path / "blanks.jsonl.gz").write_bytes(gzip.compress(unit * (12 << 20), 1))
    tracemalloc.start()
    message = error({"path": str(tmp_path / "blanks.jsonl.gz")})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ("the line has more than 1 MiB" if unit == b" " else "the file has more than 8 MiB") in message
    assert peak < 8 << 20


def test_attack_a_pipe_is_no_data_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "is not a regular file" in error({"path": str(tmp_path / "pipe.jsonl")})
    os.mkfifo(tmp_path / "train.jsonl")
    assert "is not a regular file" in error({"path": str(tmp_path)})
