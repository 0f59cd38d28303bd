"""The choice of how attention is computed, made once at the start, and its way onto a mesh."""

import functools
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from mft_jax.models import splash_attention
from mft_jax.models.attention_rule import AttentionInputs, Backend, Slopes, reference
from mft_jax.models.blockwise_attention import blockwise, blockwise_of_accelerators
from mft_jax.models.config import ModelConfig
from mft_jax.types import MftError


class Choice(NamedTuple):
    """A backend, its name, and why it was chosen."""

    name: str
    reason: str
    attend: Backend

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def choose(asked: str, platform: str, model_config: ModelConfig) -> Choice:
    """The backend that `model.attention` asks for on a platform ("cpu", "gpu", "tpu").

    Raises `MftError` where it asks by name for one that cannot compute this model there.
    """
    on_tpu = platform == "tpu"
    refusal = splash_attention.refusal(model_config)
    if asked == "splash" and (not on_tpu or refusal):
        why = f"cannot compute this model: {refusal}" if on_tpu else f"is not for {platform}"
        raise MftError(
            f"model.attention='splash', a kernel for TPUs, {why}; expected auto or blockwise"
        )
    named = f"model.attention={asked}"
    if asked == "reference":
        return Choice("reference", f"{named}; memory grows with the square of a row", reference)
    if asked == "splash" or (asked == "auto" and on_tpu and not refusal):
        reason = named if asked == "splash" else "auto, on tpu"
        return Choice("splash", reason, splash_attention.splash_of(interpret=False))
    reason = f"auto, on {platform}" if asked == "auto" else named
    if asked == "auto" and on_tpu:
        reason += f" instead of splash: {refusal}"
    return Choice(
        "blockwise", reason, blockwise if platform == "cpu" else blockwise_of_accelerators
    )


def on_mesh(attend: Backend, mesh: Mesh, rows: tuple[str, ...], heads: str) -> Backend:
    """`attend` computed by each device for its own rows and heads, so that nothing is gathered.

    Rows are split over the mesh's axes `rows`, heads over its axis `heads`. With fewer key heads
    than that axis has devices, each device takes the one key head that its queries share. Heads
    that cannot be split so are all computed on every device of that axis.
    """
    if mesh.size == 1:
        return attend

    def sharded(
        q: Float[Array, "B L H C"],
        k: Float[Array, "B S K C"],
        v: Float[Array, "B S K values"],
        inputs: AttentionInputs,
        *,
        window: int,
        scale: float,
        softcap: float = 0.0,
        alibi_slopes: Slopes | None = None,
    ) -> Float[Array, "B L H values"]:
        num_heads, key_heads, parts = q.shape[2], k.shape[2], mesh.shape[heads]
        share_one = num_heads % parts == 0 and key_heads < parts and parts % key_heads == 0
        split = num_heads % parts == 0 and key_heads % parts == 0
        compute = functools.partial(attend, window=window, scale=scale, softcap=softcap)

        def own(x: Array) -> Array:
            if not share_one:
                return x
            head = jax.lax.axis_index(heads) * key_heads // parts
            return jax.lax.dynamic_slice_in_dim(x, head, 1, axis=2)

        def of_device(
            q: Array, k: Array, v: Array, inputs: AttentionInputs, slopes: Array | None
        ) -> Array:
            return compute(q, own(k), own(v), inputs, alibi_slopes=slopes)

        of_heads = heads if split or share_one else None
        queries, keys = P(rows, None, of_heads), P(rows, None, heads if split else None)
        slopes = None if alibi_slopes is None else jax.numpy.asarray(alibi_slopes)
        return jax.shard_map(
            of_device,
            mesh=mesh,
            in_specs=(queries, keys, keys, P(rows), P(of_heads)),
            out_specs=queries,
            # Neither a kernel nor a loop of unknown length says over which axes its values vary.
            check_vma=False,
        )(q, k, v, inputs, slopes)

    return sharded
