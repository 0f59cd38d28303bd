"""A file is replaced whole or not at all."""

import pytest

from mft_jax.record.files import write_whole


def test_the_new_text_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "page.html"
    assert write_whole(path, "old") == write_whole(path, "new é") == path
    assert path.read_text(encoding="utf-8") == "new é" and list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_text_and_no_draft(tmp_path):
    path = tmp_path / "page.html"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half of a pair: \ud800")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
