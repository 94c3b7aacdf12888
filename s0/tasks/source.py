"""Reading benchmark rows from the hub or from local files, with the schema checked row by row.

Local forms of `task.path`: a file that `s0.tasks.rows` reads, a folder of such files
named after their split (train.jsonl, test-00000-of-00001.parquet, dev.json, ...; also below the folder `<hub config>/` or
`data/`, as a hub repository is laid out), or a folder written by `datasets.Dataset.save_to_disk`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s0.errors import DataError
from s0.tasks.rows import SUFFIXES, Row, read_rows, suffix_of

_SPLIT = re.compile(r"(train|test|validation|valid|val|dev)(?:_spider)?(?:-\d+-of-\d+)?")
_CANONICAL = {"valid": "validation", "val": "validation", "dev": "validation"}
#: columns that name a row; a number there is read as its decimal text
ID_COLUMNS = ("task_id", "unique_id", "id")
#: split name of a table that has none of its own (one file, one saved Dataset)
ALL = "all"


@dataclass(frozen=True)
class Source:
    """Where a benchmark's rows are. `columns` maps each required column to its Python type (str, int or list); `optional`
    maps further ones to what stands for them where a row has none, or null."""

    name: str
    columns: Mapping[str, type]
    path: str | None = None
    hub_id: str | None = None
    hub_revision: str | None = None
    hub_config: str | None = None
    optional: Mapping[str, Any] = field(default_factory=dict)

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
        return {split: check_schema(self, split, rows) for split, rows in tables.items()}

    def fail(self, problem: str, way_out: str) -> DataError:
        return DataError(f"{self.name}: {problem}; {way_out}")


def check_schema(source: Source, split: str, rows: Sequence[Row]) -> list[Row]:
    """The rows with ids as text and optional columns filled in. Raises DataError unless there are rows, and every one has
    every column with its type."""
    where = f"{source.label}, split {split}"
    if not rows:
        raise source.fail(f"{where} is empty", "give a file with at least one row")
    return [_checked(source, f"{where}, row {number}", row) for number, row in enumerate(rows)]


def _checked(source: Source, where: str, row: Row) -> Row:
    missing = [c for c in source.columns if c not in row]
    if missing:
        raise source.fail(
            f"{where} has no column {', '.join(map(repr, missing))} (it has {', '.join(row) or 'none'})",
            f"the data set has the columns {', '.join(source.columns)}",
        )
    row = dict(row)
    for column, value in source.optional.items():
        if row.get(column) is None:
            row[column] = value
    types = {**source.columns, **{column: type(value) for column, value in source.optional.items()}}
    for column, kind in types.items():
        value = row[column]
        if column in ID_COLUMNS and kind is str and isinstance(value, int) and not isinstance(value, bool):
            value = row[column] = str(value)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise source.fail(
                f"{where}: column {column!r} holds {type(value).__name__}",
                f"it must hold {kind.__name__}",
            )
    return row


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
        return {split: read_rows(source.name, path)}
    if path.exists() and not path.is_dir():
        raise source.fail(f"task.path={path} is not a regular file", "give a file, or a folder of files")
    if not path.is_dir():
        hint = f" ({source.hub_id} from the hub)" if source.hub_id else ""
        raise source.fail(f"task.path={path} does not exist", f"put the data set there{hint} or correct task.path")
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _read_saved(source, path)
    folders = [path, *([path / source.hub_config] if source.hub_config else []), path / "data"]
    for folder in folders:
        files = sorted(f for f in folder.glob("*") if suffix_of(f)) if folder.is_dir() else []
        groups: dict[str, list[Path]] = {}
        for file in files:
            match = _SPLIT.fullmatch(_stem(file))
            if match:
                groups.setdefault(_CANONICAL.get(match[1], match[1]), []).append(file)
        if groups:
            return {split: _read_shards(source, split, group) for split, group in groups.items()}
        if len(files) == 1:
            return {ALL: read_rows(source.name, files[0])}
    raise source.fail(
        f"task.path={path} holds no data file",
        f"expected files named after a split (train, test, validation, dev) ending in {', '.join(SUFFIXES)}, "
        "or a folder written by save_to_disk",
    )


def _read_shards(source: Source, split: str, files: list[Path]) -> list[Row]:
    if len(files) > 1 and not all("-of-" in f.name for f in files):
        names = ", ".join(f.name for f in files)
        raise source.fail(f"several files claim to be split {split}: {names}", "keep one, or give task.path=FILE")
    return [row for file in files for row in read_rows(source.name, file)]


def _read_saved(source: Source, path: Path) -> dict[str, list[Row]]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # a damaged folder ends in whatever the part of the reader that met it raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise source.fail(f"task.path={path} is not a readable saved data set ({reason})", "save it again") from error
    if isinstance(loaded, datasets.DatasetDict):
        return {_CANONICAL.get(str(split), str(split)): [dict(r) for r in rows] for split, rows in loaded.items()}
    return {ALL: [dict(row) for row in loaded]}


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(suffix_of(path))] if suffix_of(path) else ""


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
