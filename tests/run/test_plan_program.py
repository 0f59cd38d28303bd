"""What a compiled program does, read from its text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mft_jax.run.plan_program import collectives, cycles, parse, product_flops

# Shortened from what the TPU's compiler writes: a loop of four steps, whose body has a product, a
# kernel, and a gather that is spread over two instructions with one channel.
TPU = """HloModule step, is_scheduled=true

%product.1 (p0: bf16[8,16], p1: bf16[16,32]) -> bf16[8,32] {
  %p0 = bf16[8,16]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %p1 = bf16[16,32]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[8,32]{1,0:T(8,128)(2,1)} convolution(%p0, %p1), dim_labels=bf_io->bf
}

%body (arg: (s32[], u4[1,64,32])) -> (s32[], u4[1,64,32]) {
  %arg = (s32[]{:T(128)}, u4[1,64,32]{2,1,0:T(64,128)(8,1)E(4)}) parameter(0)
  %fusion.1 = bf16[8,32]{1,0:T(8,128)} fusion(%a, %b), calls=%product.1, \
backend_config={"estimated_cycles":"100"}
  %kernel.1 = bf16[8,32]{1,0:T(8,128)} custom-call(%a), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"body":"TUz","cost_estimate":{"flops":"50"}}}
  %all-gather.1 = u4[1,64,32]{2,1,0:T(64,128)(8,1)E(4)S(1)} all-gather(%c), channel_id=6, \
metadata={op_name="codes"}, backend_config={"estimated_cycles":"9223372036854775807"}
  %all-gather.2 = u4[1,64,32]{2,1,0:T(64,128)(8,1)E(4)} all-gather(%c), channel_id=6, \
metadata={op_name="codes"}
  ROOT %tuple.1 = (s32[]{:T(128)}, u4[1,64,32]{2,1,0}) tuple(%i, %all-gather.2)
}

%condition (arg.1: (s32[], u4[1,64,32])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(4)
  %arg.1 = (s32[]{:T(128)}, u4[1,64,32]{2,1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %compare.1 = pred[]{:T(512)} compare(%i.1, %constant.1), direction=LT
}

ENTRY %main.1 (x: s32[]) -> (s32[], u4[1,64,32]) {
  %x = s32[]{:T(128)} parameter(0)
  %all-reduce.1 = (f32[5]{0:T(128)}, f32[3]{0:T(128)}) all-reduce(%d, %e), channel_id=1
  ROOT %while.1 = (s32[]{:T(128)}, u4[1,64,32]{2,1,0}) while(%t), condition=%condition, body=%body
}
"""


def test_a_loops_body_counts_as_often_as_it_runs():
    program = parse(TPU)
    assert (program.times["main.1"], program.times["body"], program.times["product.1"]) == (1, 4, 4)
    assert product_flops(program) == 4 * (2 * 8 * 16 * 32 + 50)


def test_cycles_of_kernels_are_not_stated():
    assert cycles(parse(TPU)) == (400.0, 2)


def test_collectives_are_counted_once_for_a_channel_by_kind_and_dtype():
    found = [(one.kind, one.dtype, one.count, one.bytes) for one in collectives(parse(TPU))]
    assert found == [("all-gather", "u4", 4, 4 * 64 * 32 / 2), ("all-reduce", "f32", 1, 32.0)]


@pytest.mark.parametrize("layers", [1, 5])
def test_products_of_a_real_program_are_those_that_were_written(layers):
    def run(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    shapes = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((16, 64), (layers, 64, 64)))
    program = parse(jax.jit(run).lower(*shapes).compile().as_text())
    assert product_flops(program) == layers * 2 * 16 * 64 * 64


def test_collectives_of_a_real_program_have_the_bytes_of_their_results():
    mesh = jax.make_mesh((8,), ("fsdp",))
    split, whole = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("fsdp", None))
    gather = jax.jit(lambda x: x + 1, out_shardings=whole)
    compiled = gather.lower(jax.ShapeDtypeStruct((8, 32), np.float32, sharding=split)).compile()
    (found,) = collectives(parse(compiled.as_text()))
    assert (found.kind, found.dtype, found.bytes) == ("all-gather", "f32", 8 * 32 * 4)
