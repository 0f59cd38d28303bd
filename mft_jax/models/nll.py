"""Negative log-likelihood of the next token where it counts, without all logits in memory.

In code tasks a third of the positions or fewer carry loss. They are computed a chunk at a time,
with the whole vocabulary each, in as many rounds as the batch needs, so that nothing is left out:

    counted   . x x . . x . x . .      order   1 2 | 5 7 | - - | - -     chunk = 2: logits [2, V]
                                               two rounds of at most five

The head's table is used as it is stored: nothing pads, transposes, casts or gathers it. The forward
pass of a differentiated loss also computes the slopes of the nll by the hidden states, so that the
logits are computed again only where the head's own parameters are trained.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mft_jax.models.head import Head


def _unchanged(x: Array) -> Array:
    return x


class LossSharding(NamedTuple):
    """The loss on a mesh; each function returns its input, placed.

    groups: parts of the rows that are on devices of their own. Devices with other groups share the
    vocabulary: each has a part of the table, and computes it for the chunks of all of them.
    """

    groups: int = 1
    own: Callable[[Array], Array] = _unchanged  # of [G, ...]: every group on its own devices
    shared: Callable[[Array], Array] = _unchanged  # of a chunk [G, C, ...]: wherever vocabulary is
    vocab: Callable[[Array], Array] = _unchanged  # of [V, ...]: a part on each of those


ONE_GROUP = LossSharding()


class _Fixed(NamedTuple):
    """What is known when the step is compiled."""

    chunk: int
    softcap: float
    sharding: LossSharding


class _Rows(NamedTuple):
    """The parameters of a head that have a row for every token of the vocabulary."""

    table: Any
    bias: Any
    b: Any


class _Inputs(NamedTuple):
    """The inputs of the product with the rows; `low` is that of an adapter's."""

    hidden: Float[Array, "G N D"]
    low: Float[Array, "G N R"] | None


class _Counted(NamedTuple):
    """The positions that count: of a group, in their order; N stands for none."""

    mask: Bool[Array, "G N"]
    order: Int[Array, "G P"]
    targets: Int[Array, "G N"]
    rounds: Int[Array, ""]


def next_token_nll(
    hidden: Float[Array, "B L D"],
    head: Head,
    targets: Int[Array, "B L"],
    counted: Bool[Array, "B L"],
    *,
    chunk: int,
    sharding: LossSharding = ONE_GROUP,
) -> Float[Array, "B L"]:
    """`-log softmax(logits)[target]` of the positions that are `counted`, 0 at the others.

    It is in float32, or in float64 where the model computes in it. `chunk`: positions of a group
    whose logits are in memory at once. The cost follows the group that has the most to count.
    """

    def by_group(x: Array) -> Array:
        return x.reshape(sharding.groups, -1, *x.shape[2:])

    low = head.low(hidden)
    inputs = _Inputs(by_group(hidden), None if low is None else by_group(low))
    length = inputs.hidden.shape[1]
    fixed = _Fixed(min(chunk, length), head.softcap, sharding)
    where = _counted(by_group(counted), by_group(targets), fixed.chunk)
    rows = jax.tree.map(sharding.vocab, _Rows(head.table, head.bias, head.b))
    nll = cast(Array, _nll(fixed, inputs, rows, where))
    return nll.reshape(targets.shape)


def _counted(mask: Bool[Array, "G N"], targets: Int[Array, "G N"], chunk: int) -> _Counted:
    length = mask.shape[1]
    number = mask.sum(axis=1, dtype=jnp.int32)
    first = jnp.argsort(~mask, axis=1, stable=True)
    order = jnp.where(jnp.arange(length)[None] < number[:, None], first, length)
    order = jnp.pad(order, ((0, 0), (0, -length % chunk)), constant_values=length)
    return _Counted(mask, order, targets, -(-number.max() // chunk))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _nll(fixed: _Fixed, inputs: _Inputs, rows: _Rows, where: _Counted) -> Float[Array, "G N"]:
    return _in_place(_rounds(fixed, inputs, rows, where, slopes=False)[0], where)


def _forward(fixed, inputs, rows, where):
    """The nll, and the residuals: the slopes; and all there is, where rows are trained."""
    trained, frozen = (
        _Rows(*(None if row is None or row.perturbed != part else row.value for row in rows))
        for part in (True, False)
    )
    values = jax.custom_derivatives.custom_vjp_primal_tree_values
    inputs, rows, where = values(inputs), values(rows), values(where)
    nll, *slopes = _rounds(fixed, inputs, rows, where, slopes=True)
    again = (inputs, frozen) if jax.tree.leaves(trained) else None
    return _in_place(nll, where), (slopes, where, trained, again)


def _backward(fixed, residuals, cotangent):
    (of_hidden, of_low), where, trained, again = residuals

    def of_inputs(slopes: Any) -> Any:
        if slopes is None:
            return None
        return (cotangent[..., None] * _in_place(slopes, where)).astype(slopes.dtype)

    by_rows = _Rows(None, None, None)
    if again is not None:
        inputs, frozen = again
        by_rows = _by_rows(fixed, inputs, trained, frozen, where, cotangent)
    return _Inputs(of_inputs(of_hidden), of_inputs(of_low)), by_rows, None


_nll.defvjp(_forward, _backward, symbolic_zeros=True)


def _rounds(
    fixed: _Fixed, inputs: _Inputs, rows: _Rows, where: _Counted, *, slopes: bool
) -> list[Any]:
    """The nll [G, P] of the counted positions, in their order; then, with `slopes`, its slopes by
    both inputs."""
    dtype = jnp.promote_types(inputs.hidden.dtype, jnp.float32)

    def empty(*width: int, dtype: Any) -> Array:
        return fixed.sharding.own(jnp.zeros((*where.order.shape, *width), dtype))

    def one_round(index: Int[Array, ""], made: list[Any]) -> list[Any]:
        x, targets = _chunk(fixed, (inputs, where.targets), where, index)
        logits = _logits(fixed, rows, x)
        nll, by_logit = _softmax(fixed, logits, targets)
        parts = [nll]
        if slopes:
            by_logit = by_logit.astype(x.hidden.dtype)
            parts += [_product("gcv,vd->gcd", by_logit, rows.table)]
            parts += [None if x.low is None else _product("gcv,vd->gcd", by_logit, rows.b)]

        def put(whole: Array, part: Array) -> Array:
            part = fixed.sharding.own(part.astype(whole.dtype))
            return jax.lax.dynamic_update_slice_in_dim(whole, part, index * fixed.chunk, axis=1)

        return jax.tree.map(put, made, parts)

    made: list[Any] = [empty(dtype=dtype)]
    if slopes:
        made += [None if x is None else empty(x.shape[-1], dtype=x.dtype) for x in inputs]
    return jax.lax.fori_loop(0, where.rounds, one_round, made)


def _by_rows(
    fixed: _Fixed,
    inputs: _Inputs,
    trained: _Rows,
    frozen: _Rows,
    where: _Counted,
    cotangent: Float[Array, "G N"],
) -> _Rows:
    """The gradients of the trained rows, summed over the rounds in at least float32."""
    rows = _Rows(*(b if a is None else a for a, b in zip(trained, frozen, strict=True)))

    def one_round(index: Int[Array, ""], total: _Rows) -> _Rows:
        x, targets, factor = _chunk(fixed, (inputs, where.targets, cotangent), where, index)
        by_logit = factor[..., None] * _softmax(fixed, _logits(fixed, rows, x), targets)[1]
        low = by_logit.astype(x.hidden.dtype)
        parts = _Rows(
            table=None if total.table is None else _product("gcv,gcd->vd", low, x.hidden),
            bias=None if total.bias is None else by_logit.sum(axis=(0, 1)),
            b=None if total.b is None else _product("gcv,gcr->vr", low, x.low),
        )
        return jax.tree.map(jnp.add, total, parts)

    def zeros(row: Array) -> Array:
        exact = jnp.promote_types(inputs.hidden.dtype, jnp.float32)
        return fixed.sharding.vocab(jnp.zeros(row.shape, exact))

    total = jax.lax.fori_loop(0, where.rounds, one_round, jax.tree.map(zeros, trained))
    return jax.tree.map(lambda grad, row: grad.astype(row.dtype), total, trained)


def _chunk(fixed: _Fixed, tree: Any, where: _Counted, index: Int[Array, ""]) -> Any:
    """Of arrays [G, N, ...] the entries [G, chunk, ...] of a round; 0 where there is none."""
    at = jax.lax.dynamic_slice_in_dim(where.order, index * fixed.chunk, fixed.chunk, axis=1)
    return jax.tree.map(lambda x: fixed.sharding.shared(_entries(x, at)), tree)


def _in_place(values: Float[Array, "G P *D"], where: _Counted) -> Float[Array, "G N *D"]:
    """Values of the counted positions at their positions, and 0 at the others."""
    rank = jnp.cumsum(where.mask, axis=1, dtype=jnp.int32) - 1
    return _entries(values, jnp.where(where.mask, rank, values.shape[1]))


@jax.vmap
def _entries(x: Array, at: Int[Array, " n"]) -> Array:
    return x.at[at].get(mode="fill", fill_value=0)


def _logits(fixed: _Fixed, rows: _Rows, x: _Inputs) -> Float[Array, "G C V"]:
    head = Head(rows.table, rows.bias, b=rows.b, softcap=fixed.softcap)
    return head.logits(x.hidden, x.low)


def _softmax(
    fixed: _Fixed, logits: Float[Array, "G C V"], targets: Int[Array, "G C"]
) -> tuple[Float[Array, "G C"], Float[Array, "G C V"]]:
    """The nll, and its derivative by the logits before the soft cap."""
    top = logits.max(axis=-1, keepdims=True)
    powers = jnp.exp(logits - top)
    total = powers.sum(axis=-1, keepdims=True)
    here = jnp.arange(logits.shape[-1])[None, None] == targets[..., None]
    at_target = jnp.where(here, logits, 0).sum(axis=-1)
    by_logit = powers / total - here
    if fixed.softcap:
        by_logit *= 1 - jnp.square(logits / fixed.softcap)
    return (jnp.log(total) + top)[..., 0] - at_target, by_logit


def _product(indices: str, x: Array, y: Array) -> Array:
    exact = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum(indices, x, y.astype(x.dtype), preferred_element_type=exact)
