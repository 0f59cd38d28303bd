"""Initial adapters that are computed from the weight (PiSSA, LoftQ).

    pissa   the adapter is the weight's principal part, the rest is stored
    loftq   the adapter approximates the error of quantisation

Both return the stored rest and `a`, `b` with `weight ~ rest + scale * a @ b`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.weights.storage import QuantizedDtype, quantize

OVERSAMPLED = 16
POWER_ITERATIONS = 6


def principal(
    w: Float[Array, "in out"], rank: int
) -> tuple[Float[Array, "in R"], Float[Array, "R out"]]:
    """Factors of the best approximation of rank `rank`, each with the roots of the singular values.

    By randomised subspace iteration (Halko et al., arXiv 0909.4061, Alg. 4.4 and 5.1): a full
    decomposition of every matrix of a large model takes hours. The random start is a constant.
    """
    with jax.default_matmul_precision("highest"):
        width = min(rank + OVERSAMPLED, *w.shape)
        basis = jax.random.normal(jax.random.key(0), (w.shape[1], width), w.dtype)
        basis, _ = jnp.linalg.qr(w @ basis)
        for _ in range(POWER_ITERATIONS):
            across, _ = jnp.linalg.qr(w.T @ basis)
            basis, _ = jnp.linalg.qr(w @ across)
        u, values, v = jnp.linalg.svd(basis.T @ w, full_matrices=False)
        root = jnp.sqrt(values[:rank])
        a, b = (basis @ u[:, :rank]) * root[None], root[:, None] * v[:rank]
        absent = rank - a.shape[1]  # a rank above that of the matrix: zeros
        return jnp.pad(a, ((0, 0), (0, absent))), jnp.pad(b, ((0, absent), (0, 0)))


def pissa(
    w: Float[Array, "in out"], rank: int, scale: float
) -> tuple[Float[Array, "in out"], Float[Array, "in R"], Float[Array, "R out"]]:
    """(rest, a, b) of PiSSA (arXiv 2404.02948, Eqs. 2-4)."""
    a, b = (part / scale**0.5 for part in principal(w, rank))
    return w - scale * a @ b, a, b


def loftq(
    w: Float[Array, "in out"], rank: int, scale: float, dtype: QuantizedDtype, iterations: int
) -> tuple[Any, Float[Array, "in R"], Float[Array, "R out"]]:
    """(quantised rest, a, b) of LoftQ (arXiv 2310.08659, Alg. 1): every iteration quantises
    `w - scale a b` and approximates the error."""

    def iterate(low: Array) -> tuple[Any, Array, Array]:
        stored = quantize(w - low, dtype)
        a, b = (part / scale**0.5 for part in principal(w - stored.dequantize(w.dtype), rank))
        return stored, a, b

    found = iterate(jnp.zeros_like(w))
    for _ in range(iterations - 1):
        found = iterate(scale * found[1] @ found[2])
    return found
