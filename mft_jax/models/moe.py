"""A sparse mixture of experts (arXiv 1701.06538): every token uses a few of many feed-forwards.

Tokens are sorted by expert, so that each expert multiplies one contiguous range of them:

    token      0 0 1 1 2 2      sorted by expert   0 2 | 0 1 1 | 2
    expert     0 1 1 1 2 0      group sizes          2     3     1
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mft_jax.models.config import Experts, ModelConfig
from mft_jax.models.layers import ACTIVATIONS, INIT, Kinds
from mft_jax.models.mlp import Mlp
from mft_jax.models.remat import PRODUCT, WIDE_PRODUCT, named
from mft_jax.types import RouterSums
from mft_jax.weights.protocol import ragged_matmul


def choose(
    probability: Float[Array, "B L E"], experts: Experts
) -> tuple[Float[Array, "B L k"], Int[Array, "B L k"]]:
    """Weights and numbers of each token's experts."""
    allowed = probability
    if experts.groups > 1:
        grouped = probability.reshape(*probability.shape[:-1], experts.groups, -1)
        best = jax.lax.top_k(grouped.max(axis=-1), experts.groups_per_token)[1]
        mask = jax.nn.one_hot(best, experts.groups).sum(axis=-2)[..., None]
        allowed = (grouped * mask).reshape(probability.shape)
    weight, index = jax.lax.top_k(allowed, experts.per_token)
    if experts.renormalize:
        weight /= weight.sum(axis=-1, keepdims=True)
    return weight * experts.scale, index


class ExpertLayer(nnx.Module):
    """One matrix per expert, [E, in, out]."""

    KINDS: Kinds = {"kernel": "expert_matrix"}

    def __init__(self, num: int, d_in: int, d_out: int, *, stack: tuple[int, ...], rngs: nnx.Rngs):
        self.kernel = nnx.Param(INIT(rngs.params(), (*stack, num, d_in, d_out), jnp.float32))

    def __call__(self, x: Float[Array, "M in"], sizes: Int[Array, " E"]) -> Float[Array, "M out"]:
        return ragged_matmul(x, self.kernel.get_value(), sizes)


class Table(nnx.Module):
    """A small table whose rows give scores: never quantised, computed in at least float32."""

    KINDS: Kinds = {"table": "table"}

    def __init__(self, rows: int, width: int, *, stack: tuple[int, ...], rngs: nnx.Rngs):
        self.table = nnx.Param(INIT(rngs.params(), (*stack, rows, width), jnp.float32))

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L E"]:
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.einsum(
            "bld,ed->ble", x, self.table.get_value().astype(x.dtype), preferred_element_type=dtype
        )


class ExpertMlp(nnx.Module):
    """Routed and shared experts; returns the output and the `RouterSums` of tokens in `real`."""

    def __init__(
        self, model_config: ModelConfig, experts: Experts, *, stack: tuple[int, ...], rngs: nnx.Rngs
    ):
        d, f, num = model_config.width, experts.width, experts.num
        self.router = Table(num, d, stack=stack, rngs=rngs)
        self.gate = ExpertLayer(num, d, f, stack=stack, rngs=rngs)
        self.up = ExpertLayer(num, d, f, stack=stack, rngs=rngs)
        self.down = ExpertLayer(num, f, d, stack=stack, rngs=rngs)
        shared, gated = experts.shared_width, experts.shared_gate
        self.shared = Mlp(model_config, width=shared, stack=stack, rngs=rngs) if shared else None
        self.shared_gate = Table(1, d, stack=stack, rngs=rngs) if gated else None
        self.experts, self.activation = experts, model_config.activation

    def __call__(
        self, x: Float[Array, "B L D"], real: Bool[Array, "B L"]
    ) -> tuple[Float[Array, "B L D"], RouterSums]:
        probability = jax.nn.softmax(self.router(x), axis=-1)
        weight, index = choose(probability, self.experts)
        y = self._routed(x, weight.astype(x.dtype), index)
        if self.shared is not None:
            shared = self.shared(x)
            if self.shared_gate is not None:
                shared *= jax.nn.sigmoid(self.shared_gate(x)).astype(x.dtype)
            y += shared
        counted = real.astype(probability.dtype)[..., None]
        chosen = jax.nn.one_hot(index, self.experts.num, dtype=probability.dtype).sum(axis=-2)
        sums = RouterSums(
            jnp.sum(chosen * counted, axis=(0, 1)),
            jnp.sum(probability * counted, axis=(0, 1)),
            counted.sum(),
        )
        return y, sums

    def _routed(
        self, x: Float[Array, "B L D"], weight: Float[Array, "B L k"], index: Int[Array, "B L k"]
    ) -> Float[Array, "B L D"]:
        per_token, width = index.shape[-1], x.shape[-1]
        order = jnp.argsort(index.reshape(-1), stable=True)
        sizes = jnp.bincount(index.reshape(-1), length=self.experts.num).astype(jnp.int32)
        sorted_x = x.reshape(-1, width)[order // per_token]
        act = ACTIVATIONS[self.activation]
        gate, up = (named(wide(sorted_x, sizes), WIDE_PRODUCT) for wide in (self.gate, self.up))
        y = named(self.down(act(gate) * up, sizes), PRODUCT)
        inverse = jnp.argsort(order)
        y = y[inverse].reshape(*index.shape, width)
        return jnp.sum(y * weight[..., None], axis=-2)
