"""What a decoder is made of: capabilities, never family names."""

import dataclasses

from mft_jax.types import MftError


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder: pre-norm blocks of grouped-query attention and a gated feed-forward.

    Widths are in numbers of features. `head_width` is the width of one query or key/value head.
    """

    vocab_size: int
    width: int
    mlp_width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    max_positions: int
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-6
    qkv_bias: bool = False
    tied_head: bool = False

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise MftError(
                f"num_heads={self.num_heads} must be a multiple of num_kv_heads="
                f"{self.num_kv_heads}: every key/value head serves a whole group of query heads"
            )
        if self.head_width % 2:
            raise MftError(
                f"head_width={self.head_width} must be even: rotary embedding turns pairs"
            )
