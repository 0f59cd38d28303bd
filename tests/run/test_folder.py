"""A run's folder: the adapter that training started from is compared by its content."""

import numpy as np
import pytest

from mft_jax.run.folder import SAMPLE_FILE, _adapter_changes, adapter_checksum, read_sample
from mft_jax.types import Batch, MftError


@pytest.fixture
def adapter(tmp_path):
    def make(name: str, weights: bytes):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(weights)
        return folder

    return make


def test_an_adapter_under_its_old_path_is_not_read_again():
    assert _adapter_changes("gone", "gone", 3) == _adapter_changes("", "", None) == []


def test_a_moved_adapter_must_be_the_same(adapter):
    first, same, other = adapter("a", b"1"), adapter("b", b"1"), adapter("c", b"2")
    checksum = adapter_checksum(first)
    assert _adapter_changes(str(first), str(same), checksum) == []
    for now in (str(other), "", "absent"):
        assert len(_adapter_changes(str(first), now, checksum)) == 1
    assert _adapter_changes("", str(first), None)
    # Version 0.1 kept no checksum, so another path may be another adapter.
    assert "not known to be the same" in _adapter_changes(str(first), str(same), None)[0]


def test_a_sample_that_is_no_sample_is_refused_and_never_unpickled(tmp_path):
    row = np.zeros((1, 2))
    np.savez(tmp_path / SAMPLE_FILE, **dict.fromkeys(Batch._fields, row))
    assert len(read_sample(tmp_path)) == len(Batch._fields)
    good = (tmp_path / SAMPLE_FILE).read_bytes()
    pickled = np.array([print], dtype=object)
    np.savez(tmp_path / "pickled.npz", **dict.fromkeys(Batch._fields, pickled))
    np.savez(tmp_path / "other.npz", other=row)
    huge = good.replace(b"(1, 2)", b"(1 << 60,)")
    zeroed = good[:200] + bytes(99) + good[299:]
    damages = [(tmp_path / f"{name}.npz").read_bytes() for name in ("pickled", "other")]
    for content in (
        *damages,
        b"",
        b"no zip",
        good[:-40],
        zeroed,
        huge,
    ):
        (tmp_path / SAMPLE_FILE).write_bytes(content)
        with pytest.raises(MftError, match="sample.npz is not what `mft train` writes"):
            read_sample(tmp_path)
