"""The choice of what layers keep for the backward pass, `model.remat=auto`: the fastest that fits.

Bytes are estimated from shapes: those that a form keeps, and beside them the weights with moments
and gradients, one layer with all that it computes, and a chunk of logits. Nothing is compiled.
"""

import math
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from rich.filesize import decimal

from mft_jax import sharding
from mft_jax.config import TrainConfig
from mft_jax.models.config import ModelConfig
from mft_jax.models.params import ParamInfo, param_infos
from mft_jax.models.remat import ATTENTION, KEPT, PRODUCT, WIDE_PRODUCT, Remat
from mft_jax.run.base_model import BaseModelInfo
from mft_jax.run.memory import host_bytes
from mft_jax.run.processes import of_first
from mft_jax.sharding import RULES
from mft_jax.types import MftError, Params
from mft_jax.weights.storage import stored_bits

# The fastest first. `none` is not among them: it keeps more than `dots` and is no faster.
BY_SPEED: tuple[Remat, ...] = ("dots", "inputs", "block", "offload")
WIDE = ("gate", "up", "gate_up")  # the products into the width of the feed-forward
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
    here = set(jax.local_devices())
    local = [device for device in mesh.devices.flat if device in here]
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
    *,
    gradients: int = 1,
    scores: bool = True,
    limit: int | None = None,
) -> RematChoice:
    """The form that the config asks for, or the fastest that fits.

    gradients  gradients of all that is trained which a step holds at once
    scores     whether attention computes all scores of a row at once
    limit      bytes of a device; none: those that it has
    """
    if config.model.remat != "auto":
        return RematChoice(config.model.remat)
    limit = device_limit(mesh) if limit is None else limit
    if limit is None:
        return RematChoice("block", "the memory of the devices is not known")
    forms = BY_SPEED if can_offload(mesh) else BY_SPEED[:-1]
    needed = [
        step_bytes(config, base, mesh, form, gradients=gradients, scores=scores) for form in forms
    ]
    fitting = [index for index, size in enumerate(needed) if size <= USABLE * limit]
    index = of_first(fitting[0] if fitting else len(forms) - 1)
    words = f"an estimated {decimal(needed[index])} of {decimal(limit)} on each device"
    return RematChoice(forms[index], words if fitting else f"{words}, which may be too much")


def step_bytes(
    config: TrainConfig,
    base: BaseModelInfo,
    mesh: Mesh,
    remat: Remat,
    *,
    gradients: int = 1,
    scores: bool = True,
) -> int:
    """Estimated bytes of a device in a step: weights, what is trained with two moments and its
    gradients, what layers keep, one layer with its gradient, two chunks of logits."""
    model_config, length = base.model_config, config.data.row_length
    rows = config.loop.rows_per_step // (config.loop.micro_batches * sharding.rows_divisor(mesh))
    tokens, size = rows * length, jnp.dtype(config.model.compute_dtype).itemsize
    tensor = mesh.shape["tensor"]
    frozen = 0.0
    if base.tuning.method != "full":
        frozen = sum(_frozen_bytes(config, mesh, base, info) for info in base.infos.values())
    trained = (3 + gradients) * _bytes_on_mesh(mesh, base, base.trainable_shapes)
    kept = tokens * size * kept_values(model_config, remat, tensor)
    # A norm, an activation and a rotation have outputs of their own, some in float32.
    layer = 4 * tokens * size * kept_values(model_config, "dots", tensor) / model_config.num_layers
    if scores:
        layer += 8 * tokens * length * 4 * model_config.num_heads / tensor
    logits = 2 * 4 * min(config.objective.loss_chunk, tokens) * model_config.vocab_size
    return int(frozen + trained + kept + layer + logits)


def kept_values(model_config: ModelConfig, remat: Remat, tensor: int = 1) -> float:
    """Numbers that layers keep of each token, in the compute dtype, on one of the devices of
    `tensor`. Of form none it is not known: it depends on what differentiation asks for."""
    layer_inputs = model_config.num_layers * model_config.width
    if remat == "offload":
        return 0.0
    if remat == "block":
        return float(layer_inputs)
    matrices = [info for info in param_infos(model_config).values() if info.quantizable]
    names = KEPT[remat]
    return layer_inputs + sum(_outputs(model_config, info, names, tensor) for info in matrices)


def _outputs(
    model_config: ModelConfig, info: ParamInfo, names: tuple[str, ...], tensor: int
) -> float:
    """Numbers of a token that all layers of a stack keep of one product, by the names kept."""
    (layers, *_), (d_in, d_out) = info.stack, info.shape[-2:]
    name = info.layer.rpartition("/")[2]
    experts = model_config.experts if info.kind == "expert_matrix" else None
    # What is only added up is not asked for again.
    added = name == "o" and model_config.block != "sequential"
    if name == "down" and experts is None:
        scaled = model_config.experts is not None and model_config.experts.shared_gate
        added = not (scaled and info.layer == "mlp/shared/down")
    values = 0.0
    kept = (WIDE_PRODUCT if name in WIDE else PRODUCT) in names
    if kept and (not added or model_config.post_norms):
        values += d_out / (tensor if RULES[info.axes[-1]] == "tensor" else 1)
    if name == "o" and ATTENTION in names:
        values += d_in / tensor
    return layers * values * (experts.per_token if experts else 1)


def _frozen_bytes(config: TrainConfig, mesh: Mesh, base: BaseModelInfo, info: ParamInfo) -> float:
    stored, size = base.tuning.stored, math.prod(info.shape)
    bits = 8 * jnp.dtype(config.model.compute_dtype).itemsize * size
    if stored and info.quantizable:
        bits = stored_bits(info.shape, stored)
    where = sharding.leaf_shardings(mesh, info, info.struct)
    return bits / 8 * math.prod(where.shard_shape(info.shape)) / size


def _bytes_on_mesh(mesh: Mesh, base: BaseModelInfo, tree: Params) -> int:
    places = jax.tree.leaves(sharding.tree_shardings(mesh, base.infos, tree))
    leaves = zip(jax.tree.leaves(tree), places, strict=True)
    return sum(math.prod(p.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, p in leaves)
