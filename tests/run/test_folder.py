"""A run's folder: the adapter that training started from is compared by its content."""

import pytest

from mft_jax.run.folder import _adapter_changes, adapter_checksum


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
