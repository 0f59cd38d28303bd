"""What was read or computed once, kept by its content in the user's cache folder.

    mft_jax/tokens/KEY      the tokens of a task
    mft_jax/baseline/KEY    the validation pass before the first step
    mft_jax/compiled/...    compiled programs, as JAX keeps them

A key is a checksum of all that an entry follows from. An entry is a safetensors file that appears
whole or not at all: arrays, facts (JSON) and a checksum of both, which is read back before every
use. Nothing here is needed: what is missing, damaged or cannot be written is made anew.

`MFT_CACHE_GIB` bounds the folder (10 where it is not set; 0 keeps nothing). What was used longest
ago goes first.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import xxhash

from mft_jax.types import MftError

LIMIT, DEFAULT_GIB = "MFT_CACHE_GIB", 10.0
DTYPES = {"I32": np.int32, "I64": np.int64, "F32": np.float32, "F64": np.float64}
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
BUFFER_BYTES = 1 << 20  # stays in the processor's cache: read once from memory
DRAFT_SECS = 86_400.0  # a draft that is older than a day was left behind


class Entry(NamedTuple):
    """Arrays by name, and facts that JSON holds."""

    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]


class DamagedEntry(Exception):
    """A file that is not as it was written."""


class Kept:
    """The entries of the cache folder. `say` is told once of the same trouble, and no trouble
    stops the caller.

    folder      where they lie; None: nothing is kept
    most_bytes  that the folder may hold
    """

    def __init__(self, folder: Path | None, most_bytes: int, say: Callable[[str], None]):
        self.folder, self.most_bytes, self.say = folder, most_bytes, say
        self.told: set[str] = set()

    def read(self, kind: str, key: str) -> Entry | None:
        """The entry as it was written; None where there is none."""
        if self.folder is None:
            return None
        path = self.folder / kind / key
        try:
            entry = read_entry(path)
        except FileNotFoundError:
            return None
        except DamagedEntry as error:
            self._tell(key, f"note: {path} is damaged ({error}); it is made anew")
            return None
        except OSError as error:
            self._tell("folder", f"note: what earlier starts kept cannot be read ({error})")
            return None
        with contextlib.suppress(OSError):  # a folder that may only be read
            os.utime(path)
        return entry

    def write(self, kind: str, key: str, entry: Entry) -> None:
        """Keep an entry, unless it cannot be, and remove what makes the folder too large."""
        if self.folder is None:
            return
        path = self.folder / kind / key
        size = sum(array.nbytes for array in entry.arrays.values())
        if size > self.most_bytes:
            gib = f"{size / 2**30:.1f} GiB of {kind} are more than {LIMIT} allows"
            self._tell(kind, f"note: {gib}, so they are made anew at every start")
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, draft = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    write_entry(file, entry)
                os.replace(draft, path)
            finally:
                Path(draft).unlink(missing_ok=True)
        except OSError as error:
            self._tell("folder", f"note: nothing is kept for the next start ({error})")
            return
        prune(self.folder, self.most_bytes)

    def _tell(self, about: str, text: str) -> None:
        if about not in self.told:
            self.told.add(about)
            self.say(text)


NOTHING_KEPT = Kept(None, 0, lambda line: None)


def open_kept(say: Callable[[str], None]) -> Kept:
    """The entries of the user's cache folder, within `MFT_CACHE_GIB`."""
    most_bytes = limit_bytes()
    return Kept(cache_root() if most_bytes else None, most_bytes, say)


def cache_root() -> Path | None:
    """Where the platform keeps what can be made again, under `mft_jax`; None: there is no home."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):
        return Path(named) / "mft_jax"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    inside = home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache"
    return inside / "mft_jax"


def limit_bytes() -> int:
    """The bytes that `MFT_CACHE_GIB` allows. Raises `MftError` where it is no such number."""
    text = os.environ.get(LIMIT, "") or str(DEFAULT_GIB)
    try:
        gib = float(text)
    except ValueError:
        gib = math.nan
    if not 0 <= gib < math.inf:
        raise MftError(
            f"the environment variable {LIMIT} is {text!r}; expected the GiB that the cache folder "
            f"may hold, such as {DEFAULT_GIB:g}, or 0 to keep nothing; correct or unset it"
        )
    return int(gib * 2**30)


def prune(folder: Path, most_bytes: int) -> None:
    """Remove what was used longest ago until at most `most_bytes` are left, and old drafts.

    JAX notes no use of its programs; where the file system keeps no time of access, theirs is that
    of writing.
    """
    found: list[tuple[float, int, Path]] = []
    for path in (Path(where) / name for where, _, names in os.walk(folder) for name in names):
        with contextlib.suppress(OSError):  # another process may remove it at the same time
            state = path.stat()
            used = max(state.st_atime, state.st_mtime)
            if not path.name.endswith(".part"):
                found.append((used, state.st_size, path))
            elif used < time.time() - DRAFT_SECS:
                path.unlink()
    too_many = sum(size for _, size, _ in found) - most_bytes
    for _, size, path in sorted(found):
        if too_many <= 0:
            break
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            too_many -= size


# -- keys


def checksum_of(*parts: str) -> str:
    """128 bits of XXH3 over the parts and where each ends."""
    check = xxhash.xxh3_128()
    for part in parts:
        text = part.encode("utf-8", "surrogatepass")
        check.update(f"{len(text)}:".encode() + text)
    return check.hexdigest()


def checksum_of_files(files: Iterable[tuple[str, Path]]) -> str:
    """128 bits of XXH3 over names and contents of files, which are read in pieces."""
    check, buffer = xxhash.xxh3_128(), memoryview(bytearray(BUFFER_BYTES))
    for name, path in files:
        content = xxhash.xxh3_128()
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                content.update(buffer[:count])
        check.update(f"{name}\0".encode("utf-8", "surrogateescape") + content.digest())
    return check.hexdigest()


@functools.cache
def checksum_of_source() -> str:
    """`checksum_of_files` of this package's source."""
    package = Path(__file__).parent
    files = sorted(package.rglob("*.py"))
    return checksum_of_files((file.relative_to(package).as_posix(), file) for file in files)


# -- one entry as a file: eight bytes with the length of the head, the head (JSON), the arrays


def write_entry(file: BinaryIO, entry: Entry) -> None:
    # The widest numbers first, so that each array begins at a multiple of its numbers' width.
    arrays = {name: np.asarray(array, order="C") for name, array in entry.arrays.items()}
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))
    head: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        dtype, shape = NAMES[array.dtype], list(array.shape)
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    head["__metadata__"] = {"facts": json.dumps(entry.facts)}
    check = _head_checksum(head)
    for array in arrays.values():
        check.update(array.reshape(-1).data)
    head["__metadata__"]["xxh3"] = check.hexdigest()
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for array in arrays.values():
        file.write(array.reshape(-1).data)


def read_entry(path: Path) -> Entry:
    """The entry that a file holds. Raises `DamagedEntry` where it is not as it was written, and
    `OSError` where it cannot be read."""
    # Not mapped: what was checked is what is used, also when the file is removed or replaced.
    data = np.fromfile(path, np.uint8)
    begin = 8 + int.from_bytes(data[:8].tobytes(), "little")
    try:
        head = json.loads(data[8:begin].tobytes())
        written = head["__metadata__"].pop("xxh3")
        check = _head_checksum(head)
        check.update(data[begin:].data)
        if check.hexdigest() != written:
            raise DamagedEntry("its bytes are not those that were written")
        facts = json.loads(head.pop("__metadata__")["facts"])
        arrays = {}
        for name, tensor in head.items():
            first, last = (begin + place for place in tensor["data_offsets"])
            flat = data[first:last].view(DTYPES[tensor["dtype"]])
            arrays[name] = flat.reshape(tensor["shape"])
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise DamagedEntry(f"it is no entry: {error}") from error
    return Entry(arrays, facts)


def _head_checksum(head: Mapping[str, Any]) -> Any:
    return xxhash.xxh3_64(json.dumps(head, sort_keys=True).encode())
