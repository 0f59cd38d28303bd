"""Files of records: `.jsonl`, `.json`, `.csv`, `.tsv` (each also with `.gz` or `.zst`), `.parquet`,
a saved Hugging Face dataset; and data sets of the hub.

A source yields every record of its files in a fixed order (files sorted by name, records in file
order) or raises `MftError`; only blank lines are skipped.
"""

from __future__ import annotations

import codecs
import dataclasses
import glob
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow

from mft_jax.data import hub
from mft_jax.data.lines import read_lines
from mft_jax.data.tables import DELIMITERS, array_rows, names_note, table_rows
from mft_jax.types import FOREIGN_CODE_ERRORS, MftError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
# In a folder these are data files only where there is none of the others beside them, because a
# folder of data often has a `.json` or `.csv` that describes it.
TEXT_SUFFIXES = tuple(f"{k}{c}" for k in (".json", ".csv", ".tsv") for c in ("", ".gz", ".zst"))
EVERY_SUFFIX = (*SUFFIXES, *TEXT_SUFFIXES)
ONE_PER_LINE = "one JSON object per line"
ROWS_AT_ONCE = 1024  # of Parquet: few, since a column's dictionary may hold very long texts
SAVED_DATASET = ("dataset_info.json", "dataset_dict.json")


@dataclasses.dataclass(frozen=True)
class SourceRecord:
    """One record and its place for an error message (`file:line` or `file row n`).

    names_note  of a table, where the names of its fields come from
    """

    data: dict[str, Any]
    where: str
    names_note: str = ""


def read_records(path: str) -> Iterator[SourceRecord]:
    """All records of a file, of a folder's files (not of its sub-folders) or of a glob pattern.

    A folder made by `datasets.Dataset.save_to_disk` is read as that dataset; `datasets:<name>` is
    one of the hub.
    """
    if path.startswith(hub.PREFIX):
        yield from (SourceRecord(*row) for row in hub.hub_rows(path))
        return
    if dataset_files(Path(path)):
        yield from _read_dataset(Path(path))
        return
    for file in find_files(path):
        yield from _read_file(file)


def dataset_files(folder: Path) -> list[Path]:
    """The files of a saved dataset, sorted; none where the folder is no such one."""
    if not any((folder / name).is_file() for name in SAVED_DATASET):
        return []
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _read_file(file: Path) -> Iterator[SourceRecord]:
    kind = Path(file.name.removesuffix(".gz").removesuffix(".zst")).suffix
    if kind == ".parquet":
        yield from _read_parquet(file)
    elif kind in DELIMITERS:
        rows = table_rows(read_lines(file), file, DELIMITERS[kind])
        yield from (SourceRecord(*row, names_note(DELIMITERS[kind])) for row in rows)
    elif kind == ".json":
        yield from _read_json(file)
    else:
        yield from _read_jsonl(file)


def _read_json(file: Path) -> Iterator[SourceRecord]:
    """The records of an array, or of lines where the file does not begin with one."""
    lines, begun = read_lines(file), []
    for line in lines:
        begun.append(line)
        if line.strip():
            break
    if begun and begun[-1].removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        text = b"\n".join([*begun, *lines])
        yield from (SourceRecord(*row) for row in array_rows(text, file))
    else:
        yield from _read_jsonl(file, f"{ONE_PER_LINE}, or one array [...] of objects (.json)")


def find_files(path: str) -> list[Path]:
    """The data files that `path` names, sorted.

    In a folder, files with other suffixes are not data files (a README, a checksum list); a file
    that is named directly or by a pattern must be one. Raises `MftError` where it is not, or where
    there is no file.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        inside = sorted(f for f in place.iterdir() if f.is_file())
        files = [f for f in inside if f.name.endswith(SUFFIXES)]
        files = files or [f for f in inside if f.name.endswith(TEXT_SUFFIXES)]
        if not files:
            raise MftError(
                f"folder {path} holds no data file; expected at least one file that ends in "
                f"{_either(EVERY_SUFFIX)}; put one there or name another path"
            )
        return files
    if place.is_file():
        files = [place]
    else:
        matches = glob.glob(str(place), recursive=True)
        files = sorted(Path(match) for match in matches if Path(match).is_file())
    if not files:
        is_name = re.fullmatch(r"[\w.-]+/[\w.-]+", path) and not path.endswith(EVERY_SUFFIX)
        raise MftError(
            f"no file at {path}; expected an existing file, a folder of data files or a glob "
            "pattern that matches at least one file; correct the path"
            + f" (a data set of the hub is written {hub.PREFIX}{path})"
            * bool(is_name)
        )
    for file in files:
        if not file.name.endswith(EVERY_SUFFIX):
            raise MftError(
                f"cannot read {file}: its name ends in none of the known suffixes; expected "
                f"{_either(EVERY_SUFFIX)}; convert the file or name another path"
            )
    return files


def _either(words: tuple[str, ...]) -> str:
    return ", ".join(words[:-1]) + " or " + words[-1]


def _read_jsonl(file: Path, expected: str = ONE_PER_LINE) -> Iterator[SourceRecord]:
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            # A byte-order mark, which some editors write first, is not part of the first line.
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            yield SourceRecord(_parse(text, f"{file}:{number}", expected), f"{file}:{number}")


def _parse(line: bytes, where: str, expected: str) -> dict[str, Any]:
    try:
        data = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MftError(
            f"{where}: invalid UTF-8 at byte {error.start + 1} of the line "
            f"(0x{line[error.start]:02x}); expected UTF-8 text; convert the file to UTF-8"
        ) from error
    except (RecursionError, ValueError) as error:
        if not isinstance(error, json.JSONDecodeError):
            raise MftError(
                f"{where}: JSON nested too deeply or a number too long to read ({error}); expected "
                "one plain JSON object per line; correct or remove the line"
            ) from error
        raise MftError(
            f"{where}: invalid JSON, {error.msg} at character {error.pos + 1} of the line; "
            f"expected {expected}; correct or remove the line"
        ) from error
    if not isinstance(data, dict):
        raise MftError(
            f"{where}: the line holds a JSON {type(data).__name__}; expected an object such as "
            '{"prompt": "...", "answer": "..."}; correct or remove the line'
        )
    return data


def _read_parquet(file: Path) -> Iterator[SourceRecord]:
    import pyarrow.parquet  # here, because most runs need no Parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    yield SourceRecord(row, f"{file} row {number}")
    except (pyarrow.ArrowException, OSError, *FOREIGN_CODE_ERRORS) as error:
        raise MftError(
            f"{file}: not a readable Parquet file after row {number} ({error}); expected a "
            "complete Parquet file; copy or write it again"
        ) from error


def _read_dataset(folder: Path) -> Iterator[SourceRecord]:
    import datasets  # here, because it takes as long to import as JAX

    try:
        dataset = datasets.load_from_disk(str(folder))
    except (pyarrow.ArrowException, OSError, *FOREIGN_CODE_ERRORS) as error:
        raise MftError(
            f"{folder}: not a readable saved dataset ({error}); expected what "
            "`datasets.Dataset.save_to_disk` writes; save it again"
        ) from error
    if isinstance(dataset, datasets.DatasetDict):
        splits = sorted(map(str, dataset))
        raise MftError(
            f"{folder} holds the splits {', '.join(splits)}; expected one of them; name its "
            f"folder, such as {folder / splits[0]}"
        )
    for number, row in enumerate(dataset, start=1):
        yield SourceRecord(dict(row), f"{folder} row {number}")
