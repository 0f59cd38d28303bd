"""A quantised weight together with its place on a mesh: `PlacedArray`.

A kernel is a closed box to the compiler's partitioner. So on a mesh of several devices each device
runs the kernel on its own part, and this module says which part that is:

    x      rows over data x fsdp, its last axis as the weight's `in`
    w      codes and scales over `tensor` along `in` or `out`, whole over the other axes
    x @ w  rows as in x, its last axis as `out`; summed over `tensor` where `in` is split

The mesh is carried by the weight (`jax.shard_map`) instead of asked for by a callback of the
partitioner (`custom_partitioning`): no Python runs while a program is compiled, and nothing of the
process enters the key by which a compiled program is kept.
"""

import dataclasses
import functools
import math
import typing
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Integer

from mft_jax.weights.frozen import GROUP_SIZE, GroupedArray, dequantized_product
from mft_jax.weights.frozen_kernel import kernel_product

AxisName = str | None


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["stored"],
    meta_fields=["mesh", "rows", "axes"],
)
@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class PlacedArray(GroupedArray):
    """One layer's `stored` weight, split over `axes` (mesh axes of in and out) of `mesh`.

    `rows` are the mesh axes over which the rows of activations are split.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mft_jax.weights import integer
    >>> mesh = jax.make_mesh((1,), ("tensor",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> w = integer.quantize(jnp.ones((64, 2)), jnp.int8)
    >>> (jnp.ones((1, 64)) @ PlacedArray(w, mesh, (), (None, "tensor"))).round(1).tolist()
    [[64.0, 64.0]]
    """

    stored: GroupedArray
    mesh: Mesh
    rows: tuple[str, ...]
    axes: tuple[AxisName, AxisName]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def codes(self) -> Integer[Array, "*N in out"]:
        return self.stored.codes

    def scales(self) -> Float[Array, "G out"]:
        return self.stored.scales()

    def levels(self, codes: Integer[Array, "in out"]) -> Float[Array, "in out"]:
        return self.stored.levels(codes)

    def dequantize(self, dtype: jax.typing.DTypeLike) -> Float[Array, "in out"]:
        return self.stored.dequantize(dtype)

    def dense(self, dtype: jax.typing.DTypeLike) -> Float[Array, "*N in out"]:
        return self.stored.dense(dtype)

    def ragged(self, x: Float[Array, "M in"], sizes: Int[Array, " E"]) -> Float[Array, "M out"]:
        return self.stored.ragged(x, sizes)

    def kernel_product(self, x: Array, transposed: bool, interpret: bool = False) -> Array:
        on_in, on_out = self.axes
        if on_in is not None and self.shape[-2] // self.mesh.shape[on_in] % GROUP_SIZE:
            # A group of codes lies on two devices: their scale belongs to neither part alone.
            return dequantized_product(x, self.stored, transposed)
        contracted, kept = (on_out, on_in) if transposed else (on_in, on_out)

        def of_part(x: Array, codes: Array, scales: Array) -> Array:
            y = kernel_product(x, codes, scales, self.levels, transposed, interpret)
            return y if contracted is None else jax.lax.psum(y, contracted)

        leading = self._leading(x)
        weight = PartitionSpec(on_in, on_out)
        on_each_device = jax.shard_map(
            of_part,
            mesh=self.mesh,
            in_specs=(PartitionSpec(*leading, contracted), weight, weight),
            out_specs=PartitionSpec(*leading, kept),
            check_vma=False,
        )
        return on_each_device(x, self.codes, self.scales())

    def _leading(self, x: Array) -> tuple[Any, ...]:
        """Mesh axes of all axes of `x` but the last; rows of a batch are split."""
        size = math.prod(self.mesh.shape[axis] for axis in self.rows)
        are_rows = x.ndim > 2 and x.shape[0] % size == 0
        return (self.rows if are_rows else None, *(None,) * (x.ndim - 2))[: x.ndim - 1]


def placed(w: GroupedArray, sharding: NamedSharding, rows: tuple[str, ...]) -> GroupedArray:
    """The weight with the `sharding` of its codes, whose last two axes are `in` and `out`.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mft_jax.weights import integer
    >>> mesh = jax.make_mesh((1,), ("tensor",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> sharding = NamedSharding(mesh, PartitionSpec(None, "tensor"))
    >>> placed(integer.quantize(jnp.ones((64, 2)), jnp.int8), sharding, ()).axes
    (None, 'tensor')
    """
    names = (*sharding.spec, *(None,) * (len(w.shape) - len(sharding.spec)))
    return PlacedArray(w, typing.cast(Mesh, sharding.mesh), rows, typing.cast(Any, names[-2:]))
