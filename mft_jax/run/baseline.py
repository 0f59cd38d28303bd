"""The baseline: the validation pass before the first step, kept by all that it follows from.

Its key is a checksum of the program (its text, which holds model, precision, backend, shapes and
placement), of the bytes that the program reads (frozen weights, what is trained as it starts, the
rows of validation), of the code and libraries around it, and of the machine. So what is read back
is what the pass would have computed, whatever the settings are called.
"""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xxhash
from jax.sharding import Mesh

from mft_jax.kept import Entry, Kept, checksum_of, checksum_of_source
from mft_jax.run import parts
from mft_jax.run.batches import Data, place_batch
from mft_jax.types import Params, TaskSums

KIND = "baseline"
NAMES = ("sum", "count", "first_batch_loss")
PIECE_BYTES = 1 << 28  # of a device's weight that the host holds at once
COMPILER_SETTINGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_DEFAULT_MATMUL_PRECISION")


class Baseline(NamedTuple):
    """The nll of the whole validation set by task, and the loss of its first batch."""

    sums: TaskSums
    first_batch_loss: float


def measure(
    functions: parts.StepFunctions,
    trainable: Params,
    frozen: Params,
    data: Data,
    mesh: Mesh,
    kept: Kept,
) -> Baseline:
    """The baseline, computed unless it is kept. What is not finite is never kept, nor what several
    processes compute together."""
    key = None
    if kept.folder is not None and jax.process_count() == 1:
        key = _key(functions, trainable, frozen, data, mesh)
    entry = kept.read(KIND, key) if key else None
    if entry is not None:
        kept.say(
            "it is as an earlier start measured it: the same program, weights and rows, kept in "
            f"{kept.folder}"
        )
        sums, counts, loss = (entry.arrays[name] for name in NAMES)
        return Baseline(TaskSums(np.array(sums), np.array(counts)), float(loss))
    sums = parts.full_pass(functions, trainable, frozen, data, mesh)
    loss = parts.first_batch_loss(functions, trainable, frozen, data, mesh)
    if key and all(np.isfinite(number).all() for number in (*sums, loss)):
        arrays = map(np.asarray, (*sums, np.float64(loss)))
        kept.write(KIND, key, Entry(dict(zip(NAMES, arrays, strict=True)), {}))
    return Baseline(sums, loss)


def _key(
    functions: parts.StepFunctions, trainable: Params, frozen: Params, data: Data, mesh: Mesh
) -> str:
    rows = xxhash.xxh3_128()
    for batch in data.valid_pass:
        for leaf in batch:
            rows.update(np.ascontiguousarray(leaf).data)
    first = place_batch(next(iter(data.valid_pass)), mesh)
    program = functions.evaluate.lower(trainable, frozen, first).as_text()
    weights = _checksum_of_arrays((trainable, frozen))
    return checksum_of(program, weights, rows.hexdigest(), *_around(mesh))


def _around(mesh: Mesh) -> list[str]:
    """What else the numbers may depend on."""
    device = mesh.devices.flat[0]
    texts = [
        checksum_of_source(),
        sys.version,
        jax.__version__,
        metadata.version("jaxlib"),
        np.__version__,
    ]
    texts += [device.platform, device.device_kind, device.client.platform_version]
    texts += [os.environ.get(name, "") for name in COMPILER_SETTINGS]
    texts += [str(mesh.devices.shape)]
    if device.platform == "cpu":  # the compiler makes use of what this processor can do
        texts += [platform.machine(), platform.node(), str(os.cpu_count()), *_processor()]
    return texts


def _processor() -> list[str]:
    """The processor's name and abilities, where the system tells them."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    return sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})


def _checksum_of_arrays(tree: Any) -> str:
    """128 bits of XXH3 over the arrays of a tree as its devices hold them, each part once."""
    leaves, form = jax.tree.flatten(tree)
    check = xxhash.xxh3_128(str(form).encode())
    for leaf in leaves:
        check.update(f"{leaf.dtype} {leaf.shape}".encode())
        parts_of = {str(shard.index): shard.data for shard in leaf.addressable_shards}
        for index, part in sorted(parts_of.items()):
            check.update(index.encode())
            rows = part.shape[0] if part.ndim else 1
            at_once = max(1, PIECE_BYTES * rows // max(1, part.nbytes))
            for start in range(0, rows, at_once):
                piece = np.asarray(part if at_once >= rows else part[start : start + at_once])
                check.update(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
    return check.hexdigest()
