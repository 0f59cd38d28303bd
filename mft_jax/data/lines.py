"""Bytes of a data file, decompressed, and its lines; both within bounds, so that a small hostile
file cannot fill the memory."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow

from mft_jax.types import MftError

CHUNK_BYTES = 1 << 20
# A line is one record. 256 MiB are some 60 million tokens, far beyond any row.
MAX_LINE_BYTES = 1 << 28
# JSON that repeats itself (logs, tables) shrinks about 50-fold; gzip of nothing but zeros 1000-fold
# and zstd 30,000-fold. Small files are let through whatever their ratio.
MAX_EXPANSION = 300
ALWAYS_READ_BYTES = 1 << 28


def read_lines(file: Path) -> Iterator[bytes]:
    """The lines, split only at b"\\n": a JSON string may contain other line separators.

    The time is linear in the file's size. Raises `MftError` where a line is longer than
    `MAX_LINE_BYTES`, or compressed data is damaged or grows beyond `MAX_EXPANSION`.
    """
    number, size = 0, 0
    begun: list[bytes] = []  # the parts of a line whose end has not been read
    try:
        for chunk in read_chunks(file):
            for place, part in enumerate(chunk.split(b"\n")):
                if place:
                    number += 1
                    yield b"".join(begun)
                    begun, size = [], 0
                begun.append(part)
                size += len(part)
            if size > MAX_LINE_BYTES:
                raise MftError(
                    f"{file}:{number + 1}: the line is longer than {MAX_LINE_BYTES >> 20} MiB; "
                    "expected one record per line; split the line or remove it"
                )
    except (EOFError, OSError, zlib.error) as error:
        # Libraries raise an OSError for damaged data, too, but without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise MftError(
            f"{file}: the compressed data is cut short or damaged after line {number} ({error}); "
            "expected a complete file; copy or compress it again"
        ) from error
    if size:
        yield b"".join(begun)


def read_chunks(file: Path) -> Iterator[bytes]:
    """The bytes of a file in pieces of at most `CHUNK_BYTES`; `.gz` and `.zst` are decompressed.

    Raises `MftError` where compressed data grows beyond `MAX_EXPANSION`. Damaged data raises
    EOFError, zlib.error or an OSError without a number.
    """
    most = max(ALWAYS_READ_BYTES, MAX_EXPANSION * file.stat().st_size)
    read = 0
    with _opened(file) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            read += len(chunk)
            if read > most:
                raise MftError(
                    f"{file}: {file.stat().st_size} bytes decompress to more than {most}, "
                    f"{MAX_EXPANSION} times as many; expected data, not a file made to fill a "
                    "machine; if it is real, decompress it and name that file"
                )
            yield chunk


def _opened(file: Path) -> Any:
    """A binary stream, to be used in a `with`."""
    if file.name.endswith(".zst"):
        # It reads several frames, and raises where one was cut, which zstandard's reader does not.
        return pyarrow.input_stream(str(file), compression="zstd")
    return gzip.open(file) if file.name.endswith(".gz") else file.open("rb")
