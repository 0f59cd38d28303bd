"""The least value of a convex quadratic over numbers that are not negative, by its active set.

    min over x >= 0 of  x^T H x / 2 - f^T x,  H symmetric and positive semidefinite

The method is that of Lawson and Hanson (Solving Least Squares Problems, 1974, chapter 23): x is
exact on a set of free entries, one entry at a time joins or leaves the set, and no set comes twice,
so it ends after finitely many steps, usually fewer than 2 T. With f = 1 and x divided by its sum it
is the shortest vector in a convex hull of gradients (Wolfe, Mathematical Programming 1976).

H is scaled to a diagonal of ones, so norms of gradients may be any distance apart. A step costs a
few products of H with a vector: the inverse over the free entries is kept by updates of rank one,
and every solution made with it is corrected by its residual.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mft_jax.arrays import safe_divide


class Scaled(NamedTuple):
    """H with a diagonal of ones, plus a ridge of the size of its rounding errors, which keeps it
    definite; 1 / sqrt(diag H), and 1 where an entry of the diagonal is 0.
    """

    matrix: Float[Array, "T T"]
    ridge: Float[Array, ""]
    inverse_norm: Float[Array, " T"]


class ActiveSet(NamedTuple):
    """A point x >= 0 that is 0 outside its free entries, and the inverse of H over those."""

    x: Float[Array, " T"]
    free: Bool[Array, " T"]
    inverse: Float[Array, "T T"]  # zero outside the free entries


class _Search(NamedTuple):
    at: ActiveSet
    joined: Int[Array, ""]  # the entry that was freed last
    barred: Bool[Array, " T"]  # freed in vain since the last progress: rounding, not descent
    unfinished: Bool[Array, ""]
    sets: Int[Array, ""]  # visited


def nonnegative_minimum(
    matrix: Float[Array, "T T"], linear: Float[Array, " T"]
) -> tuple[Float[Array, " T"], Float[Array, ""]]:
    """`(x, residual)` of the problem above, with H = `matrix` and f = `linear`.

    An entry whose diagonal of H is 0 stays 0. The residual is that of `kkt_residual`.

    >>> import jax.numpy as jnp
    >>> x, _ = nonnegative_minimum(jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([3.0, 1.0]))
    >>> [round(entry, 4) for entry in x.tolist()]  # without the bound it would be [5/3, -1/3]
    [1.5, 0.0]
    """
    scaled = scale_to_ones(matrix)
    f = linear * scaled.inverse_norm
    largest = jnp.abs(f).max()
    f = safe_divide(f, largest)
    at = descend(scaled, f, no_free_entry(f))
    # Without the ridge, which the inverse over the free entries still has.
    x = jnp.maximum(at.x + at.inverse @ (f - scaled.matrix @ at.x + scaled.ridge * at.x), 0.0)
    return x * largest * scaled.inverse_norm, kkt_residual(scaled, f, x)


def scale_to_ones(matrix: Float[Array, "T T"]) -> Scaled:
    diagonal = jnp.diagonal(matrix)
    used = diagonal > 0
    inverse_norm = jnp.where(used, jax.lax.rsqrt(jnp.where(used, diagonal, 1.0)), 1.0)
    size = matrix.shape[0]
    ridge = jnp.asarray(4 * size**0.5 * jnp.finfo(matrix.dtype).eps, matrix.dtype)
    ones = matrix * inverse_norm[:, None] * inverse_norm[None]
    ones = jnp.where(jnp.eye(size, dtype=bool), 1.0 + ridge, ones)
    return Scaled(ones.astype(matrix.dtype), ridge, inverse_norm)


def no_free_entry(like: Float[Array, " T"]) -> ActiveSet:
    size = like.shape[0]
    zeros = jnp.zeros((size, size), like.dtype)
    return ActiveSet(jnp.zeros_like(like), jnp.zeros((size,), bool), zeros)


def kkt_residual(scaled: Scaled, f: Float[Array, " T"], x: Float[Array, " T"]) -> Float[Array, ""]:
    """The largest |min(x, H x - f)|, which is 0 at the minimum, over the largest of x and f."""
    slack = scaled.matrix @ x - scaled.ridge * x - f
    size = jnp.maximum(jnp.abs(x).max(), jnp.abs(f).max())
    return safe_divide(jnp.abs(jnp.minimum(x, slack)).max(), size)


def descend(scaled: Scaled, f: Float[Array, " T"], start: ActiveSet) -> ActiveSet:
    """The active set of the minimum for the linear part `f`, from any other one."""
    rounding = 8 * jnp.finfo(f.dtype).eps
    most = 10 * f.shape[0] + 10  # sets; never reached but by rounding errors

    def step(search: _Search) -> _Search:
        at = search.at
        y = at.inverse @ f
        y = y + at.inverse @ (f - scaled.matrix @ y)
        blocking = at.free & (y <= 0)
        share = jnp.where(blocking, safe_divide(at.x, at.x - y), jnp.inf)
        leaving, blocked = jnp.argmin(share), blocking.any()
        part = jnp.where(blocked, share[leaving], 1.0)
        x = jnp.where(blocked, (at.x + part * (y - at.x)).at[leaving].set(0.0), y)
        in_vain = blocked & (leaving == search.joined) & (part == 0)
        kept = ~blocked & at.free[search.joined]
        barred = jnp.where(kept, False, search.barred.at[leaving].max(in_vain))
        slack = scaled.matrix @ x - f
        tolerance = rounding * (jnp.abs(x).sum() + jnp.abs(f).max())
        wanted = ~at.free & ~barred & (slack < -tolerance)
        entry = jnp.where(blocked, leaving, jnp.argmin(jnp.where(wanted, slack, jnp.inf)))
        unfinished = blocked | wanted.any()
        moved = _exchange(scaled, at._replace(x=x), entry, leaves=blocked)
        at = jax.tree.map(lambda new, old: jnp.where(unfinished, new, old), moved, at)
        joined = jnp.where(blocked, search.joined, entry.astype(search.joined.dtype))
        return _Search(at._replace(x=x), joined, barred, unfinished, search.sets + 1)

    zero = jnp.zeros((), jnp.int32)
    search = _Search(start, zero, jnp.zeros(f.shape, bool), jnp.ones((), bool), zero)
    return jax.lax.while_loop(lambda s: s.unfinished & (s.sets < most), step, search).at


def _exchange(scaled: Scaled, at: ActiveSet, entry: Array, *, leaves: Array) -> ActiveSet:
    """The set with `entry` in it, or without it where it `leaves`: one update of rank one."""
    here = jnp.arange(at.x.shape[0]) == entry
    column = scaled.matrix[:, entry]
    inward = at.inverse @ column - here
    # The pivot: the squared distance of this gradient from the span of the free ones.
    pivot = jnp.maximum(-jnp.dot(column, inward), scaled.ridge / 2)
    outward = at.inverse[:, entry]
    vector = jnp.where(leaves, outward, inward)
    factor = jnp.where(leaves, -safe_divide(1.0, outward[entry]), 1.0 / pivot)
    inverse = at.inverse + factor * vector[:, None] * vector[None]
    gone = leaves & (here[:, None] | here[None])
    return ActiveSet(at.x, jnp.where(here, ~leaves, at.free), jnp.where(gone, 0.0, inverse))
