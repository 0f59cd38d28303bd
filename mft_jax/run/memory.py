"""Memory that a process has held: the largest amount so far, of the host and of its devices."""

import os
import resource
import sys
from pathlib import Path

import jax

CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a control group; "max": none


def host_bytes() -> int:
    """The memory of this machine, or of the container that the process is in."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CONTAINER_LIMIT.read_text().strip() if CONTAINER_LIMIT.is_file() else ""
    return min(there, int(limit)) if limit.isdecimal() else there


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
