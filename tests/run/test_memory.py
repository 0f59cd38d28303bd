"""Peaks of memory: the host's in bytes, the fullest device's where it is counted."""

import jax
import pytest

from mft_jax.run.memory import peak_device_bytes, peak_host_bytes


class Device:
    def __init__(self, stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats


@pytest.mark.parametrize(
    ("stats", "peak"),
    [
        ([{"peak_bytes_in_use": 5, "bytes_limit": 9}, {"peak_bytes_in_use": 7}], 7),
        ([None], None),  # as on CPUs
        ([{"bytes_in_use": 3}], None),
    ],
)
def test_the_peak_is_that_of_the_fullest_device(monkeypatch, stats, peak):
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(found) for found in stats])
    assert peak_device_bytes() == peak


def test_a_host_has_held_more_than_what_is_now_in_its_hands():
    held = bytearray(64 * 2**20)
    held[:: 2**12] = b"x" * len(held[:: 2**12])
    assert 2**26 < peak_host_bytes() < 2**40
