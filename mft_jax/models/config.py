"""The settings of a decoder: capabilities, never family names."""

import dataclasses
from typing import Any, Literal

from mft_jax.models.combinations import check_combination
from mft_jax.models.rope import Rope
from mft_jax.models.schedule import LayerKind, Part, schedule
from mft_jax.types import MftError


@dataclasses.dataclass(frozen=True)
class Experts:
    """A feed-forward of `num` experts, of which every token uses `per_token`.

    The weights of a token's experts are the softmax over all of them, divided by their sum if
    `renormalize`, times `scale`. With `groups` > 1 the experts are chosen only from the
    best `groups_per_token` groups. `shared_width` > 0 adds a feed-forward that every token uses,
    times a sigmoid gate if `shared_gate`. The first `dense_layers` layers have no experts.
    """

    num: int
    per_token: int
    width: int
    renormalize: bool = False
    scale: float = 1.0
    groups: int = 1
    groups_per_token: int = 1
    shared_width: int = 0
    shared_gate: bool = False
    dense_layers: int = 0


@dataclasses.dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (arXiv 2405.04434, section 2.1): widths of its projections.

    `q_rank` 0: queries are projected by one matrix. A head's queries and keys have `plain_width`
    channels without position and `rope_width` rotated channels. The norms of the narrow vectors
    have a `norm_epsilon` of their own.
    """

    q_rank: int
    kv_rank: int
    plain_width: int
    rope_width: int
    v_width: int
    norm_epsilon: float = 1e-6


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder of blocks of attention and feed-forward. Combinations that no family uses are
    refused (`combinations`), since there is no reference to compare them with.

    Widths are numbers of features; `head_width` is the width of one query or key/value head.

    norm_offset       a norm's scale is stored as its distance from 1
    window            number of tokens, including itself, that a token sees in the `window_layers`
                      (empty: every layer); 0: all of its segment
    local_rope        the rotation in `window_layers`, where it differs
    attention_scale   factor of the scores; 0: head_width ** -0.5
    *_softcap         c tanh(x / c) of scores or logits; 0: none
    qkv               "packed": one matrix, all q heads, then k, then v; "packed_by_head": one
                      matrix, q, k and v of the first head, then of the second, ...
    mlp               "packed_gated": gate and up in one matrix
    block             "parallel": attention and feed-forward read the block's input, each after
                      its own norm; "parallel_one_norm": after the same norm
    post_norms        a norm after attention and feed-forward as well
    normalized_head   rows of the head are scaled to length 1
    bounded           the model is not defined beyond `max_positions`
    """

    vocab_size: int
    width: int
    mlp_width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    max_positions: int
    norm: Literal["rms", "layer"] = "rms"
    norm_epsilon: float = 1e-6
    norm_offset: bool = False
    positions: Literal["rotary", "learned", "alibi"] = "rotary"
    rope: Rope = Rope()
    local_rope: Rope | None = None
    window: int = 0
    window_layers: tuple[bool, ...] = ()
    attention_scale: float = 0.0
    attention_softcap: float = 0.0
    qkv: Literal["separate", "packed", "packed_by_head"] = "separate"
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    latent: Latent | None = None
    mlp: Literal["gated", "packed_gated", "plain"] = "gated"
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    mlp_bias: bool = False
    experts: Experts | None = None
    block: Literal["sequential", "parallel", "parallel_one_norm"] = "sequential"
    post_norms: bool = False
    embedding_scale: float = 1.0
    tied_head: bool = False
    head_bias: bool = False
    normalized_head: bool = False
    final_softcap: float = 0.0
    bounded: bool = False

    def __post_init__(self) -> None:
        if self.experts and self.experts.num % self.experts.groups:
            raise MftError(
                f"experts.num={self.experts.num} must be a multiple of experts.groups="
                f"{self.experts.groups}"
            )
        if self.num_heads % self.num_kv_heads:
            raise MftError(
                f"num_heads={self.num_heads} must be a multiple of num_kv_heads="
                f"{self.num_kv_heads}: every key/value head serves a whole group of query heads"
            )
        if self.positions == "rotary" and self.rotated_width % 2:
            raise MftError(
                f"{self.rotated_width} channels of a head (head_width={self.head_width}, "
                f"rope.fraction={self.rope.fraction:g}) are rotated; expected an even number: "
                "rotary embedding rotates pairs"
            )
        factors = {len(self.rope.short_factors), len(self.rope.long_factors)}
        if self.rope.scaling == "longrope" and factors != {self.rotated_width // 2}:
            raise MftError(
                f"longrope has {sorted(factors)} factors, expected {self.rotated_width // 2}: one "
                "for every pair of rotated channels"
            )
        if self.window_layers and len(self.window_layers) != self.num_layers:
            raise MftError(
                f"window_layers names {len(self.window_layers)} layers, expected {self.num_layers}"
            )
        if self.experts and not 0 < self.experts.per_token <= self.experts.num:
            raise MftError(
                f"experts.per_token={self.experts.per_token} must be between 1 and experts.num="
                f"{self.experts.num}"
            )
        if self.experts and not 0 < self.experts.groups_per_token <= self.experts.groups:
            raise MftError(
                f"experts.groups_per_token={self.experts.groups_per_token} must be between 1 and "
                f"experts.groups={self.experts.groups}"
            )
        if any(self.window_layers) and not self.window:
            raise MftError(
                "window_layers names layers with a window, but window=0; expected its width in "
                "tokens"
            )
        if self.experts and not self.experts.dense_layers < self.num_layers:
            raise MftError(
                f"experts.dense_layers={self.experts.dense_layers} must be below num_layers="
                f"{self.num_layers}: some layers must have experts"
            )
        check_combination(self.capabilities, DEFAULTS)

    @property
    def capabilities(self) -> dict[str, Any]:
        """The capabilities by name, as `combinations` lists them."""
        values = {name: getattr(self, name) for name in FIELDS}
        values |= {name: getattr(self.rope, name) for name in ROPE_FIELDS}
        defaults = FIELDS | ROPE_FIELDS
        found = {name: _capability(value, defaults[name]) for name, value in values.items()}
        # With latent attention the scale follows from the rotation.
        found["attention_scale"] &= self.latent is None
        return found

    @property
    def rotated_width(self) -> int:
        """Number of channels of a head that rotary embedding rotates."""
        if self.latent is not None:
            return self.latent.rope_width
        return int(self.head_width * self.rope.fraction)

    @property
    def score_scale(self) -> float:
        """Factor of the products of queries and keys."""
        return self.attention_scale or self.head_width**-0.5

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of each layer, in order of computation."""
        local = self.window_layers or (self.window > 0,) * self.num_layers
        dense = self.experts.dense_layers if self.experts else self.num_layers
        return tuple(LayerKind(is_local, n >= dense) for n, is_local in enumerate(local))

    @property
    def schedule(self) -> tuple[Part, ...]:
        """The stacks of layers and the order in which they are computed."""
        return schedule(self.layer_kinds)

    @property
    def stacks(self) -> dict[str, tuple[int, ...]]:
        """The numbers of the layers of each stack, by the prefix of its parameters."""
        stacks = [stack for part in self.schedule for stack in part.stacks]
        return {stack.name: stack.layers for stack in stacks}


# Fields that no combination lists: their values fit every one.
FREE = ("norm_epsilon", "rope", "window_layers", "bounded")
ROPE_FIELDS: dict[str, Any] = {
    name: getattr(Rope(), name) for name in ("fraction", "interleaved", "scaling")
}
FIELDS: dict[str, Any] = {
    field.name: field.default
    for field in dataclasses.fields(ModelConfig)
    if field.default is not dataclasses.MISSING and field.name not in FREE
}


def _capability(value: Any, default: Any) -> Any:
    """A choice or a flag as it is; of a number or a part, whether it differs from its default."""
    return value if isinstance(default, str | bool) else value != default


DEFAULTS = {name: _capability(value, value) for name, value in (FIELDS | ROPE_FIELDS).items()}
