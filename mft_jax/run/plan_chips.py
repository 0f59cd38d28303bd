"""Chips that a plan knows: memory, and the speeds of products, memory and links.

Speeds are those of the manufacturers' pages, per device as JAX counts them: cloud.google.com/tpu/
docs (v4, v5e, v5p, v6e, tpu7x: the link is the chip's interconnect bandwidth over its ports), and
the datasheets of NVIDIA's A100, H100, H200 and L4 (dense bfloat16). The clock follows from a chip's
peak and the products that its units make in a cycle. The memory of a TPU is what its compiler says
that a program may use.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device. 0: not known.

    memory_gib      GiB that a program may use
    tflops          TFLOP/s of bfloat16 products
    memory_gbs      GB/s of its memory
    link_gbs        GB/s of one link in one direction
    links           to its neighbours
    clock_ghz       cycles that the compiler's cost model counts
    axes            of a topology
    per_chip        devices that a chip counts as
    shapes          topologies that can be rented, among others
    """

    memory_gib: float = 0.0
    tflops: float = 0.0
    memory_gbs: float = 0.0
    link_gbs: float = 0.0
    links: int = 0
    clock_ghz: float = 0.0
    axes: int = 0
    per_chip: int = 1
    cores_per_device: int = 1
    shapes: tuple[str, ...] = ()


FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
DEEP = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
TPUS = {
    "v4": Chip(30.75, 275, 1228, 50, 6, 1.05, 3, 1, 2, DEEP),
    "v5e": Chip(15.75, 197, 819, 50, 4, 1.5, 2, 1, 1, FLAT),
    "v5p": Chip(95.74, 459, 2765, 100, 6, 1.75, 3, 1, 2, DEEP),
    "v6e": Chip(31.25, 918, 1600, 100, 4, 1.75, 2, 1, 1, FLAT),
    "tpu7x": Chip(94.75, 1153.5, 3690, 100, 6, 0, 3, 2, 1, DEEP),
}
# By the beginning of the name that the driver gives. Memory is what the driver says.
GPUS = {
    "NVIDIA A100": Chip(0, 312, 2039, 300, 1),
    "NVIDIA H100": Chip(0, 989, 3350, 450, 1),
    "NVIDIA H200": Chip(0, 989, 4800, 450, 1),
    "NVIDIA L4": Chip(0, 121, 300, 32, 1),
}


def local_chip(device_kind: str, memory_gib: float) -> Chip:
    """The chip of this machine by the name that its driver gives, with its own memory."""
    known = [chip for name, chip in GPUS.items() if device_kind.startswith(name)]
    return dataclasses.replace(known[0] if known else Chip(), memory_gib=memory_gib)
