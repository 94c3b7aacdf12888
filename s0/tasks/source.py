"""Reading benchmark rows from the hub or from local files, with the schema checked row by row.

Local forms of `task.path`: a file (.jsonl, .json, .parquet, each of them also .gz where it is text), a folder of such files
named after their split (train.jsonl, test-00000-of-00001.parquet, dev.json, ...; also below the folder `<hub config>/` or
`data/`, as a hub repository is laid out), or a folder written by `datasets.Dataset.save_to_disk`.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s0.errors import DataError

Row = dict[str, Any]

_SPLIT = re.compile(r"(train|test|validation|valid|val|dev)(?:_spider)?(?:-\d+-of-\d+)?")
_CANONICAL = {"valid": "validation", "val": "validation", "dev": "validation"}
_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
#: split name of a table that has none of its own (one file, one saved Dataset)
ALL = "all"


@dataclass(frozen=True)
class Source:
    """Where a benchmark's rows are. `columns` maps each required column to its Python type (str, int or list)."""

    name: str
    columns: Mapping[str, type]
    path: str | None = None
    hub_id: str | None = None
    hub_revision: str | None = None
    hub_config: str | None = None

    @property
    def label(self) -> str:
        """One-line description for the record."""
        if self.path:
            return f"path {self.path}"
        return f"hub {self.hub_id}" + (f"@{self.hub_revision}" if self.hub_revision else " (no revision pinned)")

    def tables(self) -> dict[str, list[Row]]:
        """Split name -> rows, every row checked against `columns`.

        Raises DataError: nothing given, unreachable, unreadable, empty, a column missing or of another type.
        """
        if self.path:
            tables = read_local(self, Path(self.path))
        elif self.hub_id:
            tables = read_hub(self)
        else:
            raise DataError(f"{self.name}: no data given; set task.path=FILE_OR_FOLDER or task.hub_id=OWNER/NAME")
        for split, rows in tables.items():
            check_schema(self, split, rows)
        return tables

    def fail(self, problem: str, way_out: str) -> DataError:
        return DataError(f"{self.name}: {problem}; {way_out}")


def check_schema(source: Source, split: str, rows: Sequence[Row]) -> None:
    """Raise DataError unless `rows` is non-empty and every row has every column with its type."""
    where = f"{source.label}, split {split}"
    if not rows:
        raise source.fail(f"{where} is empty", "give a file with at least one row")
    for number, row in enumerate(rows):
        missing = [c for c in source.columns if c not in row]
        if missing:
            raise source.fail(
                f"{where}, row {number} has no column {', '.join(map(repr, missing))} (it has {', '.join(row) or 'none'})",
                f"the data set has the columns {', '.join(source.columns)}",
            )
        for column, kind in source.columns.items():
            value = row[column]
            if not isinstance(value, kind) or isinstance(value, bool):
                raise source.fail(
                    f"{where}, row {number}: column {column!r} holds {type(value).__name__}",
                    f"it must hold {kind.__name__}",
                )


def read_hub(source: Source) -> dict[str, list[Row]]:
    """All splits of `hub_id` at `hub_revision`. Raises DataError saying what to download when the hub cannot be reached."""
    import datasets

    try:
        loaded = datasets.load_dataset(source.hub_id, source.hub_config, revision=source.hub_revision)
    except Exception as error:  # the hub client raises a different type for every way of being unreachable
        reason = " ".join(str(error).split())[:160]
        revision = f" --revision {source.hub_revision}" if source.hub_revision else ""
        raise source.fail(
            f"cannot load {source.hub_id} from the hub ({type(error).__name__}: {reason})",
            f"where there is network run `hf download {source.hub_id} --repo-type dataset{revision} "
            f"--local-dir data/{source.name}`, put that folder here and give task.path=data/{source.name}",
        ) from error
    return {_CANONICAL.get(split, split): [dict(row) for row in rows] for split, rows in loaded.items()}


def read_local(source: Source, path: Path) -> dict[str, list[Row]]:
    """Split name -> rows from a file, a folder of files, or a saved data set. Raises DataError."""
    if path.is_file():
        match = _SPLIT.fullmatch(_stem(path))
        split = _CANONICAL.get(match[1], match[1]) if match else ALL
        return {split: read_file(source, path)}
    if not path.is_dir():
        hint = f" ({source.hub_id} from the hub)" if source.hub_id else ""
        raise source.fail(f"task.path={path} does not exist", f"put the data set there{hint} or correct task.path")
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _read_saved(source, path)
    folders = [path, *([path / source.hub_config] if source.hub_config else []), path / "data"]
    for folder in folders:
        files = sorted(f for f in folder.glob("*") if f.name.endswith(_SUFFIXES)) if folder.is_dir() else []
        groups: dict[str, list[Path]] = {}
        for file in files:
            match = _SPLIT.fullmatch(_stem(file))
            if match:
                groups.setdefault(_CANONICAL.get(match[1], match[1]), []).append(file)
        if groups:
            return {split: _read_shards(source, split, group) for split, group in groups.items()}
        if len(files) == 1:
            return {ALL: read_file(source, files[0])}
    raise source.fail(
        f"task.path={path} holds no data file",
        f"expected files named after a split (train, test, validation, dev) ending in {', '.join(_SUFFIXES)}, "
        "or a folder written by save_to_disk",
    )


def read_file(source: Source, path: Path) -> list[Row]:
    """Rows of one .jsonl, .json (a list of objects) or .parquet file. Raises DataError naming file and line."""
    if path.name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        try:
            rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise source.fail(f"{path} is not a readable Parquet file ({error})", "download it again") from error
        return rows
    if not path.name.endswith(_SUFFIXES):
        raise source.fail(f"task.path={path} has an unknown format", f"use one of {', '.join(_SUFFIXES)}")
    try:
        text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise source.fail(f"{path} cannot be read ({error})", "download it again, as UTF-8 text") from error
    if _json_lines(path):
        return [_object(source, path, n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    try:
        value = json.loads(text)
    except ValueError as error:
        raise source.fail(f"{path} is not valid JSON ({error})", "download it again") from error
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise source.fail(f"{path} is not a JSON list of objects", "use one object per row, or JSON lines as .jsonl")
    return value


def _object(source: Source, path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise source.fail(f"{path}, line {number} is not valid JSON ({error})", "correct or remove it") from error
    if not isinstance(row, dict):
        raise source.fail(f"{path}, line {number} is not a JSON object", "use one object per line")
    return row


def _read_shards(source: Source, split: str, files: list[Path]) -> list[Row]:
    if len(files) > 1 and not all("-of-" in f.name for f in files):
        names = ", ".join(f.name for f in files)
        raise source.fail(f"several files claim to be split {split}: {names}", "keep one, or give task.path=FILE")
    return [row for file in files for row in read_file(source, file)]


def _read_saved(source: Source, path: Path) -> dict[str, list[Row]]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise source.fail(f"task.path={path} is not a readable saved data set ({error})", "save it again") from error
    if isinstance(loaded, datasets.DatasetDict):
        return {_CANONICAL.get(str(split), str(split)): [dict(r) for r in rows] for split, rows in loaded.items()}
    return {ALL: [dict(row) for row in loaded]}


def _stem(path: Path) -> str:
    return next(
        (path.name.removesuffix(s) for s in sorted(_SUFFIXES, key=len, reverse=True) if path.name.endswith(s)), ""
    )


def _json_lines(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(".jsonl")


def cut(source: Source, tables: Mapping[str, list[Row]], heldout: str, first: int | None, n_heldout: int) -> Cut:
    """The training and held-out rows of a data set, by one fixed rule.

    1. A `train` table and a `heldout` table: the first `first` rows of train (all of a shorter local one), and all of the
       held-out table.
    2. A single table: its first half (rounded down) and the rest. MATH-500 is published as one table of 500.

    Rows keep their place. From the hub the published sizes are required; raises DataError otherwise.
    """
    if "train" in tables and heldout in tables:
        train, rest, train_split, rest_split = tables["train"][:first], tables[heldout], "train", heldout
        offset = 0
    elif len(tables) == 1:
        ((train_split, rows),) = tables.items()
        offset, rest_split = len(rows) // 2, train_split
        train, rest = rows[:offset], rows[offset:]
    else:
        raise source.fail(
            f"{source.label} has the splits {', '.join(tables)}", f"expected train and {heldout}, or a single table"
        )
    if not source.path and (len(rest) != n_heldout or len(train) != (first or offset)):
        raise source.fail(
            f"{source.label} gives {len(train)} training and {len(rest)} held-out rows",
            f"the published split has {first or n_heldout} and {n_heldout}; pin another task.hub_revision",
        )
    rule = f"{train_split}[0:{len(train)}] train, {rest_split}[{offset}:{offset + len(rest)}] held out"
    return Cut(train, rest, train_split, rest_split, offset, f"{source.label}; {rule}")


@dataclass(frozen=True)
class Cut:
    """Rows of both parts, the tables they came from, and `offset`, the row number of the first held-out row."""

    train: list[Row]
    heldout: list[Row]
    train_split: str
    heldout_split: str
    offset: int
    label: str
