"""The choice of what layers keep for the backward pass, `model.remat=auto`: the fastest that fits.

The bytes that a form keeps are those that the traced model keeps: nothing is compiled. Beside them
stand the weights with their moments, one layer with all that it computes, and a chunk of logits.
"""

import dataclasses
import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array
from rich.filesize import decimal

from mft_jax import sharding
from mft_jax.config import TrainConfig
from mft_jax.forward import StepSpec, combined, token_nll
from mft_jax.models.remat import Remat
from mft_jax.run.base_model import BaseModelInfo
from mft_jax.run.memory import host_bytes
from mft_jax.run.processes import of_first
from mft_jax.types import Batch, MftError, Params
from mft_jax.weights.storage import stored_bits

# The fastest first. `none` is not among them: it keeps more than `dots` and is no faster.
BY_SPEED: tuple[Remat, ...] = ("dots", "inputs", "block", "offload")
USABLE = 0.9  # share of the memory that arrays may fill; the rest is the compiler's and fragments


class RematChoice(NamedTuple):
    """The form, and why it was taken, in words; none where the config says it."""

    remat: Remat
    why: str = ""


def check_remat(config: TrainConfig, mesh: Mesh) -> None:
    """Raise `MftError` where the host's memory is asked for, but devices have no other."""
    if config.model.remat == "offload" and not can_offload(mesh):
        kind = mesh.devices.flat[0].platform
        raise MftError(
            f"model.remat='offload' keeps layer inputs in the host's memory, but {kind} devices "
            "have no memory of their own beside it; set model.remat=block"
        )


def can_offload(mesh: Mesh) -> bool:
    device = mesh.devices.flat[0]
    kinds = {memory.kind for memory in device.addressable_memories()}
    return device.platform != "cpu" and "pinned_host" in kinds


def device_limit(mesh: Mesh) -> int | None:
    """Bytes for arrays on each device; None where it is not known. CPU devices share the host's."""
    local = [device for device in mesh.devices.flat if device in set(jax.local_devices())]
    if not local:
        return None  # a topology to compile for
    if local[0].platform == "cpu":
        return host_bytes() // len(local)
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in local]
    return None if None in limits else min(cast(list[int], limits))


def choose(
    config: TrainConfig,
    base: BaseModelInfo,
    mesh: Mesh,
    spec: StepSpec,
    *,
    gradients: int = 1,
    limit: int | None = None,
) -> RematChoice:
    """The form that the config asks for, or the fastest that fits.

    gradients  gradients of all that is trained which a step holds at once
    limit      bytes of a device; none: those that it has
    """
    if config.model.remat != "auto":
        return RematChoice(config.model.remat)
    limit = device_limit(mesh) if limit is None else limit
    if limit is None:
        return RematChoice("block", "the memory of the devices is not known")
    forms = BY_SPEED if can_offload(mesh) else BY_SPEED[:-1]
    needed, beside = {}, bytes_beside(config, base, mesh, spec, gradients)
    for form in forms:
        needed[form] = beside + kept_bytes(spec, base, mesh, form, config)
        if needed[form] <= USABLE * limit:
            break
    form = min(needed, key=lambda form: needed[form])
    words = f"an estimated {decimal(needed[form])} of {decimal(limit)} on each device"
    if needed[form] > USABLE * limit:
        words += ", which may be too much"
    return RematChoice(forms[of_first(forms.index(form))], words)


def kept_bytes(
    spec: StepSpec, base: BaseModelInfo, mesh: Mesh, remat: Remat, config: TrainConfig
) -> int:
    """Bytes that a device keeps from the forward pass of a micro-batch for its backward pass.

    They are those of its rows. The devices of `tensor` are taken to keep the same.
    """
    if remat == "offload":
        return 0
    devices, length = sharding.rows_divisor(mesh), config.data.row_length
    spec = dataclasses.replace(spec, remat=remat)
    stored = {path: info.struct for path, info in base.infos.items()}
    frozen = {} if spec.tuning.method == "full" else stored

    def residuals(trainable: Params, frozen: Params, batch: Batch) -> Any:
        def nll(trainable: Params) -> Array:
            return token_nll(spec, combined(spec, trainable, frozen), batch)[0]

        return jax.vjp(nll, trainable)[1]

    def size(rows: int) -> int:
        ids, weights = (jax.ShapeDtypeStruct((rows, length), d) for d in (np.int32, np.float32))
        batch = Batch(ids, ids, ids, ids, ids, weights)
        return _bytes(jax.eval_shape(residuals, base.trainable_shapes, frozen, batch))

    rows = config.loop.rows_per_step // (config.loop.micro_batches * devices)
    # Weights are kept, too: what a further row adds is without them.
    return rows * (size(2 * devices) - size(devices)) // devices


def bytes_beside(
    config: TrainConfig, base: BaseModelInfo, mesh: Mesh, spec: StepSpec, gradients: int
) -> int:
    """Bytes of a device beside what layers keep: the weights, the trained ones with two moments and
    gradients, one layer with all that it computes and its gradient, and two chunks of logits."""
    trained = _bytes_on_mesh(mesh, base, base.trainable_shapes)
    full = spec.tuning.method == "full"
    frozen = 0.0 if full else sum(_frozen_bytes(spec, mesh, base, path) for path in base.infos)
    layer = 2 * kept_bytes(spec, base, mesh, "none", config) // base.model_config.num_layers
    rows = config.loop.rows_per_step // (config.loop.micro_batches * sharding.rows_divisor(mesh))
    logits = rows * config.data.row_length * min(spec.vocab_chunk, base.model_config.vocab_size)
    return int(frozen) + (3 + gradients) * trained + layer + 2 * 4 * logits


def _frozen_bytes(spec: StepSpec, mesh: Mesh, base: BaseModelInfo, path: str) -> float:
    info, stored = base.infos[path], spec.tuning.stored
    size = math.prod(info.shape)
    bits = 8 * jnp.dtype(spec.dtype).itemsize * size
    if stored and info.quantizable:
        bits = stored_bits(info.shape, stored)
    where = sharding.leaf_shardings(mesh, info, info.struct)
    return bits / 8 * math.prod(where.shard_shape(info.shape)) / size


def _bytes_on_mesh(mesh: Mesh, base: BaseModelInfo, tree: Params) -> int:
    places = jax.tree.leaves(sharding.tree_shardings(mesh, base.infos, tree))
    leaves = zip(jax.tree.leaves(tree), places, strict=True)
    return sum(math.prod(p.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, p in leaves)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
