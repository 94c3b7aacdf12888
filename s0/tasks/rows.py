"""Rows of one data file, whatever is in it: JSON lines, JSON, CSV, TSV (each also .gz) or Parquet.

Text is UTF-8, with or without a byte order mark, with any line ends; JSON lines end at a line feed alone, because the other
separators may stand inside JSON strings. Files are read as a stream with limits, so that a compressed bomb, a damaged archive
or a row without end is one line that names file, line, rule and way out.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from s0.errors import DataError

Row = dict[str, Any]

#: largest file and largest row (for .json, which is parsed whole: largest file), uncompressed
MAX_FILE_BYTES, MAX_ROW_BYTES, MAX_JSON_BYTES = 2 << 30, 64 << 20, 256 << 20
TEXT_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
SUFFIXES = (*TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in TEXT_SUFFIXES), ".parquet")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def suffix_of(path: Path) -> str:
    """The one of SUFFIXES that `path` ends in, else ""."""
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(s)), "")


def read_rows(name: str, path: Path) -> list[Row]:
    """All rows of a file, blank lines left out. Raises DataError beginning with `name`, the task's name."""
    suffix = suffix_of(path)
    if not suffix:
        raise _fail(name, f"task.path={path} has an unknown format", f"use one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise _fail(name, f"task.path={path} is not a regular file", "give a file, or a folder of files")
    try:
        if suffix == ".parquet":
            return _parquet(name, path)
        kind = suffix.removesuffix(".gz")
        if kind == ".json":
            return _json(name, path)
        lines = _lines(name, path)
        if kind == ".jsonl":
            return [_object(name, path, number, line) for number, line in lines if line.strip()]
        return _table(name, path, lines, "\t" if kind == ".tsv" else ",")
    except (OSError, EOFError, zlib.error) as error:
        raise _fail(
            name, f"{path} cannot be read ({_one_line(error)})", "it is damaged or cut off: download it again"
        ) from error


def _fail(name: str, problem: str, way_out: str) -> DataError:
    return DataError(f"{name}: {problem}; {way_out}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _open(path: Path) -> gzip.GzipFile | IO[bytes]:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb")


def _lines(name: str, path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without line feed) of the file, read as a stream."""
    with closing(_open(path)) as stream:
        total = 0
        for number, line in enumerate(iter(lambda: stream.readline(MAX_ROW_BYTES + 1), b""), start=1):
            total += len(line)
            if len(line) > MAX_ROW_BYTES or total > MAX_FILE_BYTES:
                what, limit = ("the file", MAX_FILE_BYTES) if total > MAX_FILE_BYTES else ("the line", MAX_ROW_BYTES)
                raise _fail(
                    name, f"{path}, line {number}: {what} has more than {limit >> 20} MiB", "split it, or shorten it"
                )
            yield number, _decoded(name, path, number, line.removesuffix(b"\n"))


def _decoded(name: str, path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise _fail(
            name, f"{path}, line {number} is not UTF-8 (byte {error.start + 1})", "save the file as UTF-8"
        ) from error


def _json(name: str, path: Path) -> list[Row]:
    with closing(_open(path)) as stream:
        data = stream.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise _fail(
            name,
            f"{path} has more than {MAX_JSON_BYTES >> 20} MiB",
            "write it as JSON lines (.jsonl), which are streamed",
        )
    value = _parsed(name, f"{path}", _decoded(name, path, 1, data))
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise _fail(name, f"{path} is not a JSON list of objects", "use one object per row, or JSON lines as .jsonl")
    return value


def _object(name: str, path: Path, number: int, line: str) -> Row:
    row = _parsed(name, f"{path}, line {number}", line)
    if not isinstance(row, dict):
        raise _fail(name, f"{path}, line {number} is not a JSON object", "use one object per line")
    return row


def _parsed(name: str, where: str, text: str) -> Any:
    try:
        value = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise _fail(name, f"{where} is nested too deeply", "correct or remove it") from None
    except UnicodeEncodeError:
        problem = f"{where} holds half a character (a lone surrogate, \\ud800 to \\udfff)"
        raise _fail(name, problem, "write the whole character, or remove it") from None
    except ValueError as error:
        raise _fail(name, f"{where} is not valid JSON ({error})", "correct or remove it") from error
    return value


def _table(name: str, path: Path, lines: Iterator[tuple[int, str]], delimiter: str) -> list[Row]:
    """Rows of a CSV file whose first line names the columns. A quoted field may hold line ends; all values are text."""
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader((line + "\n" for _, line in lines), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    head: list[str] | None = None
    try:
        for fields in reader:
            if not fields:
                continue
            if head is None:
                head = [column.strip() for column in fields]
                if len(set(head)) < len(head) or "" in head:
                    raise _fail(
                        name, f"{path}, line 1: column names {head} are not distinct words", "name every column once"
                    )
            elif len(fields) != len(head):
                problem = f"{path}, line {reader.line_num}: {len(fields)} fields, the head has {len(head)}"
                raise _fail(name, problem, "quote fields that hold the separator or a line end")
            else:
                rows.append(dict(zip(head, fields, strict=True)))
    except csv.Error as error:
        problem = f"{path}, line {reader.line_num} is not valid CSV ({error})"
        raise _fail(name, problem, "quote fields that hold quotes, separators or line ends") from error
    return rows


def _parquet(name: str, path: Path) -> list[Row]:
    # pyarrow takes half a second to import, and only Parquet files need it
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            groups = range(file.metadata.num_row_groups)
            size = sum(file.metadata.row_group(i).total_byte_size for i in groups)
            if size > MAX_FILE_BYTES:
                raise _fail(
                    name, f"{path} holds {size >> 20} MiB, more than {MAX_FILE_BYTES >> 20}", "split it into shards"
                )
            rows: list[Row] = file.read().to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise _fail(name, f"{path} is not a readable Parquet file ({_one_line(error)})", "download it again") from error
    return rows
