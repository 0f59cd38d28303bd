"""Tables and lists in text files: `.csv` and `.tsv` with a line of names, `.json` with an array.

Rows come as (record, place): where a place is `file row n`, the first record is row 1.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mft_jax.types import MftError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
DELIMITER_NAMES = {",": "commas", "\t": "tabs"}
LARGEST_CELL = 1 << 26  # characters; the csv module's own bound is shorter than many files of code

Row = tuple[dict[str, Any], str]


def table_rows(lines: Iterable[bytes], file: Path, delimiter: str) -> Iterator[Row]:
    """The rows of a table by the names in its first line. An empty cell is an absent field."""
    csv.field_size_limit(LARGEST_CELL)
    reader = csv.reader(_texts(lines, file), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    number = 0
    try:
        for cells in reader:
            if not cells:
                continue
            if names is None:
                names = _names(cells, file)
                continue
            number += 1
            if len(cells) != len(names):
                raise MftError(
                    f"{file} row {number}: {len(cells)} cells; expected {len(names)}, one for each "
                    f"of {', '.join(names)}{names_note(delimiter)}; correct the row (a cell with "
                    f"{delimiter!r}, a quote or a line break in it stands in double quotes)"
                )
            record = {name: cell or None for name, cell in zip(names, cells, strict=True)}
            yield record, f"{file} row {number}"
    except csv.Error as error:
        raise MftError(
            f"{file}:{reader.line_num}: not a readable table ({error}); expected a first line of "
            "names, and quotes that are closed; correct the file, or convert it to .jsonl"
        ) from error


def names_note(delimiter: str) -> str:
    """Where the names of a table's columns come from, after the names in an error text."""
    return f" (the names are the table's first line, split at {DELIMITER_NAMES[delimiter]})"


def _texts(lines: Iterable[bytes], file: Path) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        try:
            yield text.decode("utf-8") + "\n"
        except UnicodeDecodeError as error:
            raise MftError(
                f"{file}:{number}: invalid UTF-8 at byte {error.start + 1} of the line "
                f"(0x{text[error.start]:02x}); expected UTF-8 text; convert the file to UTF-8"
            ) from error


def _names(cells: list[str], file: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise MftError(
            f"{file}: its first line names the column {twice[0]!r} twice; expected different "
            "names; rename one of them"
        )
    return names


def array_rows(text: bytes, file: Path) -> Iterator[Row]:
    """The objects of a JSON array."""
    try:
        entries = json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise MftError(
            f"{file}: invalid UTF-8 at byte {error.start + 1}; expected UTF-8 text; convert the "
            "file to UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise MftError(
            f"{file}:{error.lineno}: invalid JSON, {error.msg} at character {error.colno} of the "
            "line; expected an array of objects; correct the file"
        ) from error
    except (RecursionError, ValueError) as error:
        raise MftError(
            f"{file}: JSON nested too deeply or a number too long to read ({error}); expected an "
            "array of plain objects; correct the file"
        ) from error
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise MftError(
                f"{file} row {number}: the array holds a JSON {type(entry).__name__}; expected an "
                'object such as {"prompt": "...", "answer": "..."}; correct or remove it'
            )
        yield entry, f"{file} row {number}"
