"""Reading and writing of the safetensors format, one tensor at a time and without torch.

| 8 bytes: header length | header: JSON | data ...                                |
                           {"name": {"dtype": "BF16", "shape": [2, 3],
                                     "data_offsets": [begin, end]}}   of the data part
"""

import dataclasses
import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mft_jax.types import MftError

DTYPES: dict[str, np.dtype] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# The limit of the format; a larger length means that the file is no safetensors file.
MAX_HEADER_BYTES = 100_000_000
# A large tokenizer.json has 30 MB, an index of 100,000 tensors 10 MB.
MAX_JSON_BYTES = 1 << 28
COMPARED_BYTES = 1 << 24  # at a time


@dataclasses.dataclass(frozen=True)
class Span:
    """The place of a tensor: `nbytes` bytes at `offset` from the start of `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read(span: Span) -> np.ndarray:
    """The tensor as a read-only map of the file; its pages are dropped with the array."""
    if span.nbytes == 0:
        return np.zeros(span.shape, DTYPES[span.dtype])
    dtype = DTYPES[span.dtype]
    return np.memmap(span.file, dtype, mode="r", offset=span.offset, shape=span.shape)


def same_values(span: Span, other: Span) -> bool:
    """Whether both are equal in the coarser of their dtypes. They are read block by block."""
    if span.shape != other.shape:
        return False
    dtype = min(DTYPES[span.dtype], DTYPES[other.dtype], key=lambda dtype: dtype.itemsize)
    one, two = read(span), read(other)
    rows = max(1, COMPARED_BYTES * max(len(one), 1) // max(one.nbytes, 1))
    blocks = (slice(start, start + rows) for start in range(0, len(one), rows))
    return all(np.array_equal(one[b].astype(dtype), two[b].astype(dtype)) for b in blocks)


def read_json(file: Path) -> dict[str, Any]:
    if (size := file.stat().st_size) > MAX_JSON_BYTES:
        raise MftError(
            f"{file} has {size:,} bytes; expected at most {MAX_JSON_BYTES:,} of JSON: this is not "
            "that file, or it is damaged; download it again"
        )
    try:
        value = json.loads(file.read_bytes())
    except UnicodeDecodeError as error:
        raise MftError(f"{file} is not UTF-8 text: {error}") from error
    except json.JSONDecodeError as error:
        raise MftError(f"{file}:{error.lineno}: invalid JSON ({error.msg})") from error
    except RecursionError as error:
        raise MftError(f"{file} is nested too deeply; the file is damaged") from error
    except ValueError as error:  # a number of thousands of digits
        raise MftError(f"{file} cannot be read ({error}); the file is damaged") from error
    if not isinstance(value, dict):
        raise MftError(f"{file}: expected a JSON object, found {type(value).__name__}")
    return value


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one file, or the shards that its index names."""
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.is_file():
        return [single]
    if not index.is_file():
        raise MftError(
            f"{folder} holds no weights: expected {SINGLE_FILE} or {INDEX_FILE}; download the "
            "checkpoint again, or choose one with them (pickles, .bin, are never read)"
        )
    weight_map = read_json(index).get("weight_map")
    named = weight_map if isinstance(weight_map, dict) else {}
    if not named or not all(isinstance(name, str) for name in named.values()):
        raise MftError(
            f"{index}: expected a `weight_map` from tensors to files; the checkpoint is damaged, "
            "download it again"
        )
    names = sorted(set(named.values()))
    if outside := [n for n in names if Path(n).is_absolute() or ".." in Path(n).parts]:
        raise MftError(
            f"{index} names {outside[0]!r}, which lies outside of the folder; expected names of "
            "files in it; the checkpoint is damaged, download it again"
        )
    files = [folder / name for name in names]
    if missing := [file for file in files if not file.is_file()]:
        first = {folder / place: name for name, place in sorted(named.items(), reverse=True)}
        raise MftError(
            f"{folder} lacks files that {INDEX_FILE} names; download them again:\n  "
            + "\n  ".join(f"{file.name} is missing, the place of {first[file]}" for file in missing)
        )
    return files


def read_spans(file: Path) -> dict[str, Span]:
    """The tensors of one file, by its header. Raises `MftError` if the file is damaged."""
    if not file.is_file():
        raise MftError(f"{file} is missing; the checkpoint is incomplete, download it again")
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise MftError(
                f"{file} is cut short or not a safetensors file: {size} bytes, and a header of "
                f"{length} bytes is announced; download it again"
            )
        raw = stream.read(length)
    start = 8 + length
    try:
        header = json.loads(raw)
        spans = {k: _span(file, start, v) for k, v in header.items() if k != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MftError(f"{file}: the safetensors header is damaged ({error!r})") from error
    expected = start
    for name, span in sorted(spans.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if span.offset != expected:
            raise MftError(
                f"{file} is damaged: {name} begins at byte {span.offset}, expected {expected} "
                "(tensors follow each other without gaps); download it again"
            )
        expected += span.nbytes
    if size != expected:
        raise MftError(
            f"{file} is damaged: its header describes {expected} bytes, found {size}; "
            "download it again"
        )
    return spans


def _span(file: Path, start: int, value: Mapping[str, Any]) -> Span:
    begin, end = value["data_offsets"]
    shape = tuple(value["shape"])
    # type, not isinstance: true and false are ints in Python, but not numbers in JSON.
    if not all(type(size) is int and size >= 0 for size in (begin, end, *shape)) or begin > end:
        raise ValueError(f"data_offsets {[begin, end]}, shape {shape}: expected whole numbers")
    dtype = value["dtype"]
    if dtype in DTYPES and math.prod(shape) * DTYPES[dtype].itemsize != end - begin:
        raise ValueError(f"shape {shape} of {dtype} does not fill {end - begin} bytes")
    return Span(file, dtype, shape, start + begin, end - begin)


@dataclasses.dataclass(frozen=True)
class TensorType:
    """The dtype and shape of a tensor in a safetensors file."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def write_tensors(
    file: Path, types: Mapping[str, TensorType], tensors: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Write `tensors`, given one at a time in the order of `types`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, kind in types.items():
        end = offset + kind.nbytes
        header[name] = {
            "dtype": kind.dtype,
            "shape": list(kind.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # the data part starts aligned
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(raw)) + raw)
        for (name, kind), (given, tensor) in zip(types.items(), tensors, strict=True):
            if (name, kind.shape, DTYPES[kind.dtype]) != (given, tensor.shape, tensor.dtype):
                raise ValueError(f"{given}: {tensor.dtype}{tensor.shape}, announced {name} {kind}")
            stream.write(np.ascontiguousarray(tensor).view(np.uint8).data)
