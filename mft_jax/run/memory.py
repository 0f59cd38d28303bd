"""Memory that a process has held: the largest amount so far, of the host and of its devices."""

import resource
import sys

import jax


def peak_host_bytes() -> int:
    """The largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def peak_device_bytes() -> int | None:
    """The most that one of this process's devices has held; None where the platform does not count
    it, as on CPUs, whose memory is the host's."""
    counted = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stats["peak_bytes_in_use"] for stats in counted if "peak_bytes_in_use" in stats]
    return max(peaks, default=None)
