"""The registry of storage types of a frozen matrix, by their names in the settings."""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.weights import integer, nf4
from mft_jax.weights.frozen import QuantizedArray

QuantizedDtype = Literal["nf4", "int4", "int8"]


class Storage(NamedTuple):
    """A storage type: `quantize` of one layer's matrix [in, out], `stored_bits` of a shape
    [..., in, out]."""

    quantize: Callable[[Array], QuantizedArray]
    stored_bits: Callable[[tuple[int, ...]], int]


def _integer(dtype: type) -> Storage:
    return Storage(
        functools.partial(integer.quantize, dtype=dtype),
        functools.partial(integer.stored_bits, dtype=dtype),
    )


STORAGE: dict[str, Storage] = {
    "nf4": Storage(nf4.quantize, nf4.stored_bits),
    "int4": _integer(jnp.int4),
    "int8": _integer(jnp.int8),
}


def quantize(w: Float[Array, "in out"], dtype: QuantizedDtype) -> QuantizedArray:
    """One layer's weight as codes. Call it under `jit`: without, temporaries are many times `w`.

    Raises `MftError` where the type cannot store this shape.

    >>> import jax.numpy as jnp
    >>> w = quantize(jnp.ones((64, 2)), "nf4")
    >>> (jnp.ones((1, 64)) @ w).tolist()
    [[64.0, 64.0]]
    """
    return STORAGE[dtype].quantize(w)


def stored_bits(shape: tuple[int, ...], dtype: QuantizedDtype) -> int:
    """Bits that a weight of `shape` [..., in, out] occupies on an accelerator.

    >>> stored_bits((4096, 4096), "int8") / 4096**2
    8.25
    """
    return STORAGE[dtype].stored_bits(shape)
