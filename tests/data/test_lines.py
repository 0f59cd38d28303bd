"""Lines of a file: all of them, in linear time, and bounded where a file is made to fill memory."""

import gzip
import time

import pyarrow
import pytest
import zstandard

from mft_jax.data import lines
from mft_jax.data.lines import read_lines
from mft_jax.types import MftError


def compress(name, data):
    return {"gz": gzip.compress, "zst": zstandard.compress}[name](data)


@pytest.mark.parametrize("chunk", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize("text", [b"", b"\n", b"a", b"a\n", b"a\n\nbc\r\n\n", b"\n\n a"])
def test_the_lines_are_those_of_the_bytes_for_any_size_of_chunk(tmp_path, monkeypatch, chunk, text):
    monkeypatch.setattr(lines, "CHUNK_BYTES", chunk)
    file = tmp_path / "a.jsonl"
    file.write_bytes(text)
    expected = text.split(b"\n")
    assert list(read_lines(file)) == (expected if expected[-1] else expected[:-1])


def test_a_long_line_is_read_in_linear_time(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "CHUNK_BYTES", 16)
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"x" * (1 << 20))
    start = time.process_time()
    assert [len(line) for line in read_lines(file)] == [1 << 20]
    # To copy the line for each of its 65,536 chunks is 32 GiB.
    assert time.process_time() - start < 1


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_compressed_bomb_in_one_line_ends_at_the_bound(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(lines, "CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1 << 20)
    file = tmp_path / f"a.jsonl.{kind}"
    file.write_bytes(compress(kind, b'{"text": "a"}\n' + b"0" * (1 << 25)))
    before = pyarrow.total_allocated_bytes()
    with pytest.raises(MftError, match=f"a.jsonl.{kind}:2: the line is longer than 1 MiB"):
        list(read_lines(file))
    assert pyarrow.total_allocated_bytes() - before < 1 << 20


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_compressed_bomb_of_many_lines_ends_at_the_bound(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(lines, "CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr(lines, "ALWAYS_READ_BYTES", 1 << 18)
    file = tmp_path / f"a.jsonl.{kind}"
    file.write_bytes(compress(kind, b"\n" * (1 << 25)))
    with pytest.raises(MftError, match="decompress to more than .*; expected data"):
        for _ in read_lines(file):
            pass


def test_chunks_of_zstd_are_bounded_however_much_a_byte_becomes(tmp_path):
    file = tmp_path / "a.jsonl.zst"
    file.write_bytes(compress("zst", b"0" * (5 << 20)))
    assert max(map(len, lines.read_chunks(file))) <= lines.CHUNK_BYTES
