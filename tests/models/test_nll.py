"""The nll of what counts, computed in chunks, against a log-softmax in float64."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mft_jax.models.head import Head
from mft_jax.models.nll import LossSharding, next_token_nll
from mft_jax.sharding import MeshConfig, loss_sharding, make_mesh

VOCAB, WIDTH, RANK, ROWS, LENGTH = 53, 12, 3, 4, 7
EVERYTHING = ("table", "bias", "a", "b")


def oracle(hidden, head, softcap, targets, cotangent):
    """(nll, its gradients by hidden and by the head's parts under `cotangent`), in float64."""
    hidden, cotangent = np.asarray(hidden, np.float64), np.asarray(cotangent, np.float64)
    table, bias, a, b = (np.asarray(head[name], np.float64) for name in EVERYTHING)
    low = hidden @ a
    logits = hidden @ table.T + low @ b.T + bias
    slope = np.ones_like(logits)
    if softcap:
        logits = softcap * np.tanh(logits / softcap)
        slope -= np.square(logits / softcap)
    probability = np.exp(logits - logits.max(-1, keepdims=True))
    probability /= probability.sum(-1, keepdims=True)
    at_target = np.take_along_axis(probability, np.asarray(targets)[..., None], -1)[..., 0]
    by_logits = (probability - np.eye(VOCAB)[np.asarray(targets)]) * slope * cotangent[..., None]
    by_low = by_logits @ b
    by_head = {
        "table": np.einsum("blv,bld->vd", by_logits, hidden),
        "bias": by_logits.sum(axis=(0, 1)),
        "a": np.einsum("bld,blr->dr", hidden, by_low),
        "b": np.einsum("blv,blr->vr", by_logits, low),
    }
    return -np.log(at_target), by_logits @ table + by_low @ a.T, by_head


def problem(dtype=jnp.float32):
    """(hidden, head, targets, cotangent, counted): a row where nothing counts, and a full one."""
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(ROWS, LENGTH, WIDTH)), dtype)
    shapes = {"table": (VOCAB, WIDTH), "bias": (VOCAB,), "a": (WIDTH, RANK), "b": (VOCAB, RANK)}
    head = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}
    targets = rng.integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32)
    targets[3, :2] = 0, VOCAB - 1
    cotangent = rng.normal(size=(ROWS, LENGTH)).astype(np.float32)
    counted = rng.random((ROWS, LENGTH)) < 0.4
    counted[1], counted[3] = False, True
    assert 0 < counted[0].sum() < LENGTH
    return hidden, head, *map(jnp.asarray, (targets, cotangent, counted))


def nll_and_gradients(
    hidden, head, targets, cotangent, counted, chunk, softcap=0.0, trained=EVERYTHING, groups=1
):
    """(nll, gradient by hidden, gradients by the trained parts of the head)."""

    def nll(hidden, parts):
        whole = Head(**{**head, **parts}, softcap=softcap)
        sharding = LossSharding(groups)
        return next_token_nll(hidden, whole, targets, counted, chunk=chunk, sharding=sharding)

    def run(hidden, parts):
        values, pullback = jax.vjp(nll, hidden, parts)
        return values, *pullback(cotangent)

    return jax.jit(run)(hidden, {name: head[name] for name in trained})


@pytest.mark.parametrize(
    "case",
    [
        {"chunk": 1},
        {"chunk": 4, "softcap": 5.0},
        {"chunk": 8192, "trained": ("a", "b")},
        {"chunk": 3, "groups": 2, "trained": ("table", "bias")},
        {"chunk": 2, "groups": 4, "trained": (), "softcap": 5.0},
    ],
    ids=str,
)
def test_nll_and_gradients_are_those_of_the_log_softmax_where_it_counts_and_0_elsewhere(case):
    hidden, head, targets, cotangent, counted = problem()
    nll, by_hidden, by_head = nll_and_gradients(hidden, head, targets, cotangent, counted, **case)
    want, want_hidden, want_head = oracle(
        hidden, head, case.get("softcap", 0.0), targets, np.where(counted, cotangent, 0)
    )
    np.testing.assert_allclose(nll, np.where(counted, want, 0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(by_hidden, want_hidden, rtol=1e-5, atol=1e-5)
    assert sorted(by_head) == sorted(case.get("trained", EVERYTHING))
    for name, grad in by_head.items():
        np.testing.assert_allclose(grad, want_head[name], rtol=1e-5, atol=2e-5, err_msg=name)


def test_what_does_not_count_is_not_read():
    hidden, head, targets, cotangent, counted = problem()
    broken = jnp.where(counted[..., None], hidden, jnp.nan)
    made = [
        nll_and_gradients(x, head, targets, cotangent, counted, 4, trained=("table", "bias"))
        for x in (hidden, broken)
    ]
    assert made[0][0].any() and not made[0][0][~counted].any() and not made[0][1][~counted].any()
    jax.tree.map(np.testing.assert_array_equal, *made)
    nothing = nll_and_gradients(hidden, head, targets, cotangent, jnp.zeros_like(counted), 4)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(nothing))


def test_bfloat16_products_are_summed_in_float32():
    hidden, head, targets, cotangent, counted = problem(jnp.bfloat16)
    head["a"] = jnp.zeros_like(head["a"])  # its product is rounded before the rows
    made = nll_and_gradients(hidden, head, targets, cotangent, counted, 16)
    nll, by_hidden, by_head = made
    rounded = head | {"table": head["table"].astype(jnp.bfloat16).astype(jnp.float32)}
    cotangent = np.where(counted, cotangent, 0)
    want, want_hidden, want_head = oracle(
        hidden.astype(jnp.float32), rounded, 0.0, targets, cotangent
    )
    assert nll.dtype == jnp.float32 and by_hidden.dtype == jnp.bfloat16
    np.testing.assert_allclose(nll, np.where(counted, want, 0), rtol=1e-4, atol=1e-4)
    # A bfloat16 holds 8 bits: the slopes of the logits are rounded to it, and the gradients.
    np.testing.assert_allclose(by_hidden.astype(jnp.float32), want_hidden, atol=0.05)
    np.testing.assert_allclose(by_head["table"], want_head["table"], atol=0.05)


def test_large_logits_stay_finite():
    hidden, head, targets, cotangent, counted = problem()
    made = nll_and_gradients(hidden * 1e3, head, targets, cotangent, counted, 8)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(made))


@pytest.mark.parametrize("table_is_trained", [False, True])
def test_memory_is_that_of_a_chunk_of_logits_and_of_no_copy_of_the_table(table_is_trained):
    rows, length, vocab, width, chunk = 2, 128, 16384, 128, 8
    shapes = [(rows, length, width), (vocab, width)]
    hidden, table = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    targets = jax.ShapeDtypeStruct((rows, length), jnp.int32)

    def total(hidden, table, targets):
        counted = targets > 0
        return next_token_nll(hidden, Head(table), targets, counted, chunk=chunk).sum()

    by = (0, 1) if table_is_trained else (0,)
    compiled = jax.jit(jax.grad(total, argnums=by)).lower(hidden, table, targets).compile()
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    one_table, logits, states = 4 * vocab * width, 4 * chunk * vocab, 4 * rows * length * width
    bound = 4 * logits + 2 * states
    assert bound < one_table / 2
    # The gradient is a result. Here a round's part of it is an array before it is added.
    assert logits <= temporaries < bound + table_is_trained * one_table


@pytest.mark.parametrize(("vocab", "by"), [(1024, (0,)), (1024, (0, 1)), (1022, (0, 1))])
def test_on_a_mesh_it_is_the_same_and_the_table_is_not_gathered(vocab, by):
    """Nothing larger than a device's own part of the table is sent, where tensor x fsdp divides it;
    else the parts of fsdp are gathered.
    """
    rng = np.random.default_rng(1)
    rows, length, width = 8, 8, 64
    arrays = (
        jnp.asarray(rng.normal(size=(rows, length, width)), jnp.float32),
        jnp.asarray(rng.normal(size=(vocab, width)), jnp.float32),
        jnp.asarray(rng.integers(0, vocab, (rows, length)), jnp.int32),
        jnp.asarray(rng.random((rows, length)) < np.linspace(0, 1, rows)[:, None]),
    )
    mesh = make_mesh(MeshConfig(2, 2, 2))
    of_rows, of_table = PartitionSpec(("data", "fsdp")), PartitionSpec("tensor", "fsdp")
    placed = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip(arrays, (of_rows, of_table, of_rows, of_rows), strict=True)
    ]

    def gradients(by, sharding, arrays):
        def total(hidden, table, targets, counted):
            nll = next_token_nll(hidden, Head(table), targets, counted, chunk=3, sharding=sharding)
            return jnp.square(nll).sum()

        step = jax.jit(jax.value_and_grad(total, argnums=by)).lower(*arrays).compile()
        return step(*arrays), step.as_text()

    (value, want), _ = gradients(by, LossSharding(), arrays)
    (got_value, got), text = gradients(by, loss_sharding(mesh, vocab), placed)
    np.testing.assert_allclose(got_value, value, rtol=1e-5)
    for i in by:
        np.testing.assert_allclose(got[i], want[i], rtol=1e-4, atol=1e-4)
    own = vocab * width // 4
    assert 0 < max(sent(text)) <= (own if vocab % 4 == 0 else 2 * own)


def sent(text: str) -> list[int]:
    """The numbers of entries that the collectives of a compiled program return."""
    names = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    results = re.findall(rf" = (.*?) (?:{names})(?:-start)?\(", text)
    shapes = [shape for result in results for shape in re.findall(r"\w+\[([\d,]+)\]", result)]
    return [math.prod(map(int, shape.split(","))) for shape in shapes]
