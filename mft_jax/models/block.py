"""One layer: attention and feed-forward around the residual stream."""

from flax import nnx
from jaxtyping import Array, Bool, Float

from mft_jax.models.attention import Attention, View
from mft_jax.models.config import ModelConfig
from mft_jax.models.latent_attention import LatentAttention
from mft_jax.models.layers import Norm
from mft_jax.models.mlp import Mlp
from mft_jax.models.moe import ExpertMlp
from mft_jax.types import RouterSums


class Block(nnx.Module):
    """`sparse`: with experts in place of the feed-forward.

    sequential          x += attention(norm(x));  x += mlp(norm(x))
    parallel            x += attention(norm(x)) + mlp(another_norm(x))
    parallel_one_norm   x += attention(norm(x)) + mlp(norm(x))
    """

    def __init__(
        self, model_config: ModelConfig, *, sparse: bool, stack: tuple[int, ...], rngs: nnx.Rngs
    ):
        shape = {"stack": stack, "rngs": rngs}
        one_norm, after = model_config.block == "parallel_one_norm", model_config.post_norms
        self.attention_norm = Norm(model_config, stack=stack)
        latent, experts = model_config.latent, model_config.experts if sparse else None
        self.attention = (
            LatentAttention(model_config, latent, **shape)
            if latent
            else Attention(model_config, **shape)
        )
        self.attention_post_norm = Norm(model_config, stack=stack) if after else None
        self.mlp_norm = None if one_norm else Norm(model_config, stack=stack)
        self.mlp = (
            ExpertMlp(model_config, experts, **shape) if experts else Mlp(model_config, **shape)
        )
        self.mlp_post_norm = Norm(model_config, stack=stack) if after else None
        self.parallel = model_config.block != "sequential"

    def __call__(
        self, x: Float[Array, "B L D"], view: View, real: Bool[Array, "B L"]
    ) -> tuple[Float[Array, "B L D"], RouterSums | None]:
        normed = self.attention_norm(x)
        y = self.attention(normed, view)
        if self.attention_post_norm is not None:
            y = self.attention_post_norm(y)
        if not self.parallel:
            x, y = x + y, 0.0
        if self.mlp_norm is not None:
            normed = self.mlp_norm(x)
        sums = None
        if isinstance(self.mlp, ExpertMlp):
            z, sums = self.mlp(normed, real)
        else:
            z = self.mlp(normed)
        if self.mlp_post_norm is not None:
            z = self.mlp_post_norm(z)
        return x + (y + z), sums
