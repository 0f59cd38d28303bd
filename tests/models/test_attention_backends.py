"""Every backend computes the rule: the values and gradients of the readable reference, nothing of
other documents, in memory that grows with the length of a row; and one is chosen at the start."""

import dataclasses
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mft_jax.models.attention import alibi_slopes
from mft_jax.models.attention_backends import choose, on_mesh
from mft_jax.models.attention_blocks import Blocks, in_blocks, visits
from mft_jax.models.attention_rule import AttentionInputs, reference
from mft_jax.models.blockwise_attention import Tiles, in_tiles
from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import bind, init_params
from mft_jax.models.splash_attention import splash_of
from mft_jax.types import MftError

# Blocks do not divide the rows, and those of queries and keys differ.
BACKENDS = {
    "blockwise": in_tiles(Tiles(32, 48, rows_together=False)),
    "blockwise, rows together": in_tiles(Tiles(48, 32, rows_together=True)),
    "splash": splash_of(interpret=True),
}
LENGTH = 208
ROWS = {
    "one long document": [208],
    "200 short ones": [1] * 192 + [2] * 8,
    "padding at the end": [70, 30, 50],
    "padding only": [],
    "two": [90, 118],
}


class Case(NamedTuple):
    heads: int
    key_heads: int
    width: int
    value_width: int
    window: int = 0
    softcap: float = 0.0
    alibi: bool = False

    @property
    def settings(self):
        slopes = alibi_slopes(self.heads) if self.alibi else None
        scale = self.width**-0.5
        return {
            "window": self.window,
            "scale": scale,
            "softcap": self.softcap,
            "alibi_slopes": slopes,
        }


CASES = {
    "groups of 1, width 64": Case(2, 2, 64, 64),
    "groups of 3, width 80, a window": Case(3, 1, 80, 80, window=11),
    "groups of 8, width 96, a soft cap": Case(8, 1, 96, 96, softcap=0.7),
    "groups of 3, width 128, alibi, a window": Case(6, 2, 128, 128, window=60, alibi=True),
    "width 256": Case(1, 1, 256, 256),
    "widths of latent attention": Case(2, 2, 48, 32),
}


def packed(*rows, length=LENGTH):
    """The rule for rows of documents of these lengths."""
    segments, positions = np.zeros((2, len(rows), length), np.int32)
    for row, lengths in enumerate(rows):
        filled = sum(lengths)
        segments[row, :filled] = np.repeat(np.arange(len(lengths)) + 1, lengths)
        positions[row, :filled] = np.concatenate([np.arange(n) for n in lengths] or [[]])
    segments, positions = jnp.asarray(segments), jnp.asarray(positions)
    return AttentionInputs(segments, positions, segments, positions)


INPUTS = packed(*ROWS.values())


def random_heads(case, rows=5, length=LENGTH, seed=0):
    """Queries, keys, values, and the gradient of the output."""
    rng = np.random.default_rng(seed)
    shapes = [(case.heads, case.width), (case.key_heads, case.width)]
    shapes += [(case.key_heads, case.value_width), (case.heads, case.value_width)]
    return [jnp.asarray(rng.normal(size=(rows, length, *s)), jnp.float32) for s in shapes]


@functools.cache
def compiled(attend, case):
    """`f(q, k, v, dy, inputs) -> (y, dq, dk, dv)`; nothing is asked of padding."""

    def run(q, k, v, dy, inputs):
        real = (inputs.segment_ids > 0)[..., None, None]

        def output(q, k, v):
            return attend(q, k, v, inputs, **case.settings)

        y, pull = jax.vjp(output, q, k, v)
        return jnp.where(real, y, 0), *pull(jnp.where(real, dy, 0).astype(y.dtype))

    return jax.jit(run)


def table():
    """Every backend with every case; what takes seconds to compile is slow, but for one case."""
    everyday = {
        ("blockwise, rows together", "groups of 3, width 80, a window"),
        ("splash", "groups of 3, width 80, a window"),
    }
    for backend in BACKENDS:
        for name, case in CASES.items():
            if backend == "splash" and case.alibi:
                continue  # its kernel has none: `choose`
            slow = backend != "blockwise" and (backend, name) not in everyday
            marks = [pytest.mark.slow] if slow else []
            yield pytest.param(backend, name, marks=marks, id=f"{backend}, {name}")


@pytest.mark.parametrize(("backend", "name"), list(table()))
def test_values_and_gradients_are_those_of_the_reference(backend, name):
    case, given = CASES[name], random_heads(CASES[name])
    want = compiled(reference, case)(*given, INPUTS)
    got = compiled(BACKENDS[backend], case)(*given, INPUTS)
    for part, ours, theirs in zip(("y", "dq", "dk", "dv"), got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=part)


@pytest.mark.parametrize(("backend", "name"), list(table()))
def test_document_2_does_not_move_when_document_1_changes(backend, name):
    case = CASES[name]
    run, given, others = (
        compiled(BACKENDS[backend], case),
        random_heads(case),
        random_heads(case, seed=1),
    )
    row, start = list(ROWS).index("two"), ROWS["two"][0]
    changed = [x.at[row, :start].set(y[row, :start]) for x, y in zip(given, others, strict=True)]
    for before, after in zip(run(*given, INPUTS), run(*changed, INPUTS), strict=True):
        np.testing.assert_array_equal(before[row, start:], after[row, start:])
        assert np.any(before[row, :start] != after[row, :start])


@pytest.mark.parametrize("backend", ["blockwise", pytest.param("splash", marks=pytest.mark.slow)])
def test_bfloat16_costs_no_more_than_it_costs_the_reference(backend):
    case = CASES["groups of 3, width 80, a window"]
    given = random_heads(case)
    exact = compiled(reference, case)(*given, INPUTS)
    rounded = [x.astype(jnp.bfloat16) for x in given]
    theirs, ours = (
        compiled(attend, case)(*rounded, INPUTS) for attend in (reference, BACKENDS[backend])
    )

    def error(got):
        pairs = zip(got, exact, strict=True)
        return [float(jnp.linalg.norm(x.astype(jnp.float32) - y)) for x, y in pairs]

    for part, mine, cost in zip(("y", "dq", "dk", "dv"), error(ours), error(theirs), strict=True):
        assert mine <= 1.1 * cost, part


def test_in_float64_it_is_exact():
    with jax.enable_x64(True):
        case = Case(2, 1, 8, 8, window=5)
        given = [x.astype(jnp.float64) for x in random_heads(case, 1, 20)]
        inputs = packed([9, 8], length=20)
        want = compiled(reference, case)(*given, inputs)
        got = compiled(in_tiles(Tiles(8, 8, rows_together=False)), case)(*given, inputs)
        for ours, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-13)


# What is visited ----------------------------------------------------------------------------------


def visited(lengths, window=0, block=16):
    """[(first, end)] of the key blocks that each block of queries visits, in a row of 64."""
    inputs = packed(*lengths, length=64)
    segments, positions = (in_blocks(x, block) for x in inputs[:2])
    blocks = Blocks(segments, segments, positions)
    return list(zip(*(x.tolist() for x in visits(window, blocks, blocks)), strict=True))


def test_a_block_visits_the_blocks_that_it_shares_a_segment_with():
    assert visited([[64]]) == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert visited([[16, 32, 16]]) == [(0, 1), (1, 2), (1, 3), (3, 4)]
    assert visited([[2] * 32]) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert visited([[20, 44]]) == [(0, 1), (0, 2), (1, 3), (1, 4)]


def test_padding_visits_nothing_and_is_not_visited():
    assert visited([[20, 4]]) == [(0, 1), (0, 2), (0, 0), (0, 0)]
    assert visited([[]]) == [(0, 0)] * 4


def test_a_window_bounds_what_is_visited():
    assert visited([[64]], window=2) == [(0, 1), (0, 2), (1, 3), (2, 4)]
    assert visited([[64]], window=1) == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_rows_together_visit_what_any_of_them_sees():
    assert visited([[16] * 4, [32, 32], []]) == [(0, 1), (0, 2), (2, 3), (2, 4)]


def temporaries(length):
    case = Case(2, 2, 16, 16)
    given = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in random_heads(case, 1, length)]
    rule = [jax.ShapeDtypeStruct((1, length), jnp.int32)] * 4
    run = compiled(in_tiles(Tiles(64, 64, rows_together=False)), case)
    memory = run.lower(*given, AttentionInputs(*rule)).compile().memory_analysis()
    return memory.temp_size_in_bytes


def test_memory_grows_with_the_length_of_a_row_not_with_its_square():
    assert temporaries(2048) < 4.5 * temporaries(512)


# Where it is called -------------------------------------------------------------------------------

MODEL = ModelConfig(97, 32, 64, 2, 4, 2, 8, 64)
LOCAL = dataclasses.replace(MODEL, window=5)


def test_a_decoder_has_the_same_loss_and_gradients_with_blockwise():
    params = jax.jit(init_params, static_argnums=(0, 1))(LOCAL, 0)
    inputs = packed([9, 8], [20], length=24)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 97, (2, 24)))

    def loss(params, attend):
        hidden = bind(LOCAL, params)(tokens, inputs.positions, inputs.segment_ids, attend=attend)
        return jnp.where((inputs.segment_ids > 0)[..., None], hidden.states, 0).std()

    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    got, want = (run(params, attend) for attend in (BACKENDS["blockwise"], reference))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), got, want)


def test_it_may_be_mapped_over_a_further_axis():
    case, inputs = Case(2, 1, 8, 8), packed([9, 8], [20], length=24)
    rows = [jnp.stack([x, 2 * x]) for x in random_heads(case, 2, 24)]
    run = compiled(in_tiles(Tiles(8, 8, rows_together=False)), case)
    got = jax.vmap(run, in_axes=(0, 0, 0, 0, None))(*rows, inputs)
    for part, index in ((got, 0), (got, 1)):
        want = run(*(x[index] for x in rows), inputs)
        for ours, theirs in zip(part, want, strict=True):
            np.testing.assert_allclose(ours[index], theirs, rtol=1e-5, atol=1e-5)


HEADS = {
    "key heads of their own": Case(4, 2, 8, 8, alibi=True),
    "one key head for all": Case(4, 1, 8, 8, alibi=True),
    "heads that cannot be split": Case(3, 3, 8, 8),
}


@pytest.mark.parametrize("name", HEADS)
def test_each_device_of_a_mesh_computes_its_own_rows_and_heads(name):
    case, axes = HEADS[name], ("data", "fsdp")
    kinds = (jax.sharding.AxisType.Auto,) * 3
    mesh = jax.make_mesh((2, 2, 2), (*axes, "tensor"), axis_types=kinds)
    inputs = packed([7, 12], [24], [3] * 8, [], length=24)
    given = random_heads(case, 4, 24)
    one_device = in_tiles(Tiles(8, 8, rows_together=False))
    run = compiled(on_mesh(one_device, mesh, axes, "tensor"), case)

    def place(x):
        divides = x.ndim == 4 and x.shape[2] % 2 == 0
        return jax.device_put(x, NamedSharding(mesh, P(axes, None, *["tensor"] * divides)))

    placed = jax.tree.map(place, (*given, inputs))
    for ours, theirs in zip(run(*placed), compiled(one_device, case)(*given, inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    text = run.lower(*placed).compile().as_text()
    assert not re.findall(r"all-gather|all-to-all|collective-permute", text)


# The choice ---------------------------------------------------------------------------------------

ALIBI = dataclasses.replace(MODEL, num_kv_heads=4, positions="alibi", qkv="packed")


@pytest.mark.parametrize(
    ("asked", "platform", "name"),
    [
        ("auto", "cpu", "blockwise"),
        ("auto", "gpu", "blockwise"),
        ("auto", "tpu", "splash"),
        ("blockwise", "tpu", "blockwise"),
        ("splash", "tpu", "splash"),
        ("reference", "cpu", "reference"),
    ],
)
def test_a_backend_is_chosen_by_name_or_by_platform(asked, platform, name):
    choice = choose(asked, platform, MODEL)
    assert choice.name == name
    assert ("auto" if asked == "auto" else f"model.attention={asked}") in choice.reason


def test_what_the_kernel_does_not_know_is_computed_by_another_with_a_reason():
    choice = choose("auto", "tpu", ALIBI)
    assert str(choice) == "blockwise (auto, on tpu instead of splash: its kernel has no ALiBi)"


@pytest.mark.parametrize(
    ("platform", "model_config", "why"),
    [
        ("cpu", MODEL, "is not for cpu; expected auto or blockwise"),
        ("tpu", ALIBI, "cannot compute this model: its kernel has no ALiBi"),
    ],
)
def test_a_backend_that_cannot_do_it_is_refused(platform, model_config, why):
    with pytest.raises(MftError, match=re.escape(why)):
        choose("splash", platform, model_config)


def test_splash_refuses_other_keys_than_the_queries_tokens():
    q, k, v, _ = random_heads(Case(1, 1, 8, 8), 1, 24)
    inputs = packed([24], length=24)
    one = AttentionInputs(*(x[:, -1:] for x in inputs[:2]), *inputs[2:])
    with pytest.raises(ValueError, match="1 queries and 24 keys"):
        BACKENDS["splash"](q[:, -1:], k, v, one, window=0, scale=1.0)


# A TPU's compiler ---------------------------------------------------------------------------------

WIDTHS = (64, 80, 96, 128, 256)


def tpu_temporaries():
    """Bytes of temporaries of one layer's attention and its gradient, compiled for one chip."""
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    chip = SingleDeviceSharding(topologies.get_topology_desc("v5e:2x2", "tpu").devices[0])

    def shape(dtype, *dims):
        return jax.ShapeDtypeStruct(dims, dtype, sharding=chip)

    def of(attend, case, rows, length):
        heads = (case.heads, case.key_heads, case.key_heads, case.heads)
        widths = (case.width, case.width, case.value_width, case.value_width)
        given = [
            shape(jnp.bfloat16, rows, length, h, w) for h, w in zip(heads, widths, strict=True)
        ]
        rule = AttentionInputs(*[shape(jnp.int32, rows, length)] * 4)
        memory = compiled(attend, case).lower(*given, rule).compile().memory_analysis()
        return memory.temp_size_in_bytes

    splash, wide = splash_of(interpret=False), Case(28, 4, 128, 128)
    found = {f"splash {length}": of(splash, wide, 4, length) for length in (2048, 4096)}
    found |= {f"width {w}": of(splash, Case(8, 2, w, w), 1, 1024) for w in WIDTHS}
    found["latent"] = of(splash, Case(2, 2, 192, 128), 1, 1024)
    found["window, soft cap"] = of(splash, Case(2, 2, 128, 128, 512, 50.0), 1, 1024)
    found["blockwise 4096"] = of(choose("blockwise", "tpu", MODEL).attend, wide, 4, 4096)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu is not installed")
def test_on_a_tpu_memory_grows_with_the_length_of_a_row():
    env = {**os.environ, "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    done = subprocess.run([sys.executable, __file__], env=env, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["splash 4096"] < 2.2 * found["splash 2048"], found
    scores = 4 * 28 * 4096 * 4096 * 4  # of the reference, in float32
    assert max(found.values()) < scores / 4, found


if __name__ == "__main__":
    print(json.dumps(tpu_temporaries()))
