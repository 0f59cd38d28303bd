"""What is kept in the cache folder is read back as it was written or not at all, stays within its
bound, and stops no run."""

import errno
import os
import threading

import numpy as np
import pytest

from mft_jax import kept as kept_module
from mft_jax.kept import Entry, Kept, cache_root, checksum_of, limit_bytes, open_kept, prune
from mft_jax.types import MftError

ENTRY = Entry(
    {
        "ids": np.arange(7, dtype=np.int32),
        "none": np.zeros((0, 3), np.float32),
        "sums": np.array([[0.1, np.inf], [-0.0, 1e-300]]),
        "one": np.array(5, np.int64),
    },
    {"text": "naïve\n", "n": 3, "x": 0.1},
)


def keep(folder, said=None, most_bytes=1 << 20) -> Kept:
    return Kept(folder, most_bytes, (said if said is not None else []).append)


def assert_equal(entry: Entry | None):
    assert entry is not None and entry.facts == ENTRY.facts
    assert entry.arrays.keys() == ENTRY.arrays.keys()
    for name, array in entry.arrays.items():
        np.testing.assert_array_equal(array, ENTRY.arrays[name], strict=True)


def test_an_entry_is_read_as_it_was_written(tmp_path):
    assert keep(tmp_path).read("tokens", "key") is None
    keep(tmp_path).write("tokens", "key", ENTRY)
    assert_equal(keep(tmp_path).read("tokens", "key"))
    assert keep(tmp_path).read("tokens", "other") is None
    safetensors = pytest.importorskip("safetensors.numpy")
    assert safetensors.load_file(tmp_path / "tokens" / "key")["sums"].shape == (2, 2)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data.replace(b"I32", b"F32"),
        lambda data: data.replace(b'\\"n\\": 3', b'\\"n\\": 4'),
        lambda data: data[:-3] + b"!" + data[-2:],
        lambda data: data[:8] + b"[]" + data[10:],
    ],
)
def test_a_damaged_entry_is_named_and_written_anew(tmp_path, damage):
    said: list[str] = []
    kept = keep(tmp_path, said)
    kept.write("tokens", "key", ENTRY)
    file = tmp_path / "tokens" / "key"
    whole = file.read_bytes()
    assert damage(whole) != whole
    file.write_bytes(damage(whole))
    assert kept.read("tokens", "key") is None
    assert len(said) == 1 and f"{file} is damaged" in said[0]
    kept.write("tokens", "key", ENTRY)
    assert_equal(kept.read("tokens", "key"))


def test_two_writers_leave_one_whole_entry(tmp_path):
    writers = [
        threading.Thread(target=keep(tmp_path).write, args=("tokens", "key", ENTRY))
        for _ in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == ["key"]
    assert_equal(keep(tmp_path).read("tokens", "key"))


def test_what_was_used_longest_ago_goes_first(tmp_path):
    roomy = keep(tmp_path)
    for hours, name in ((3, "a"), (2, "b"), (1, "c")):
        roomy.write("tokens", name, ENTRY)
        long_ago = 1e9 - 3600 * hours
        os.utime(tmp_path / "tokens" / name, (long_ago, long_ago))
    size = (tmp_path / "tokens" / "a").stat().st_size
    assert roomy.read("tokens", "a")  # so it is the newest
    keep(tmp_path, most_bytes=3 * size).write("baseline", "d", ENTRY)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a", "c", "d"]


def test_drafts_that_were_left_behind_go_after_a_day(tmp_path):
    old, new = tmp_path / ".x.part", tmp_path / ".y.part"
    for path in (old, new):
        path.write_bytes(b"12")
    os.utime(old, (1e9, 1e9))
    prune(tmp_path, 0)
    assert list(tmp_path.iterdir()) == [new]


def test_more_than_the_bound_is_not_kept_and_told_once(tmp_path):
    said: list[str] = []
    small = keep(tmp_path, said, most_bytes=50)
    for _ in range(2):
        small.write("tokens", "key", ENTRY)
    assert len(said) == 1 and "tokens are more than MFT_CACHE_GIB allows" in said[0]
    assert not (tmp_path / "tokens").exists()


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    said: list[str] = []
    kept = keep(tmp_path / "cache", said)
    for _ in range(2):
        assert kept.read("tokens", "key") is None
        kept.write("tokens", "key", ENTRY)
    assert len(said) == 1 and "Not a directory" in said[0]


def test_a_full_disk_leaves_no_draft(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    said: list[str] = []
    monkeypatch.setattr(kept_module, "write_entry", full)
    keep(tmp_path, said).write("tokens", "key", ENTRY)
    assert len(said) == 1 and "nothing is kept for the next start" in said[0]
    assert not list((tmp_path / "tokens").iterdir())


def test_the_bound_is_a_number_of_gib(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("MFT_CACHE_GIB", "0.5")
    assert open_kept(print).folder == tmp_path / "mft_jax" == cache_root()
    assert open_kept(print).most_bytes == 2**29
    monkeypatch.setenv("MFT_CACHE_GIB", "0")
    assert open_kept(print).folder is None
    monkeypatch.delenv("MFT_CACHE_GIB")
    assert limit_bytes() == 10 * 2**30
    for wrong in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("MFT_CACHE_GIB", wrong)
        with pytest.raises(MftError, match=f"MFT_CACHE_GIB is '{wrong}'; expected the GiB"):
            limit_bytes()


def test_a_key_knows_where_its_parts_end():
    assert len({checksum_of("ab", "c"), checksum_of("a", "bc"), checksum_of("abc")}) == 3
