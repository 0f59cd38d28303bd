"""Rotary position embedding (arXiv 2104.09864) and its scalings for longer contexts.

half-split   rotates the pairs (x[i], x[i + C/2]), the order of most HF checkpoints
interleaved  rotates the pairs (x[2i], x[2i + 1])
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mft_jax.types import MftError


@dataclasses.dataclass(frozen=True)
class Rope:
    """Settings of the rotation, with base `theta`, of the first `fraction` of a head's channels.

    scaling
      linear      all frequencies divided by `factor` (arXiv 2306.15595)
      wavelength  low frequencies divided by `factor`, high ones kept, with a ramp between them, by
                  their number of turns within `original_positions`
      yarn        the same, with a ramp over the numbers of the pairs (arXiv 2309.00071), between
                  whole numbers if `truncate`
      longrope    each frequency divided by its own factor: of `short_factors` in segments of up to
                  `original_positions` tokens, of `long_factors` in longer ones (arXiv 2402.13753)
    amplitude multiplies cos and sin (yarn, longrope).
    """

    theta: float = 10000.0
    fraction: float = 1.0
    interleaved: bool = False
    scaling: Literal["none", "linear", "wavelength", "yarn", "longrope"] = "none"
    factor: float = 1.0
    original_positions: int = 0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        if self.theta <= 1:
            raise MftError(
                f"rope.theta={self.theta:g}; expected a base above 1: frequencies are its powers"
            )
        if not 0 < self.fraction <= 1:
            raise MftError(
                f"rope.fraction={self.fraction:g}; expected a share above 0 and of at most 1"
            )
        low, high = self.low_frequency_factor, self.high_frequency_factor
        if not low < high:
            raise MftError(
                f"rope.low_frequency_factor={low:g}; expected less than high_frequency_factor="
                f"{high:g}: the ramp is between them"
            )


def frequencies(rope: Rope, width: int) -> Float[np.ndarray, "tables half"]:
    """Angle per position of each pair of `width` channels; two rows for longrope, one otherwise."""
    plain = rope.theta ** (-np.arange(0, width, 2) / width)
    match rope.scaling:
        case "none":
            scaled = plain[None]
        case "linear":
            scaled = plain[None] / rope.factor
        case "wavelength":
            # 0 for less than `low` turns within the original context, 1 for more than `high`.
            low, high = rope.low_frequency_factor, rope.high_frequency_factor
            turns = rope.original_positions * plain / (2 * math.pi)
            scaled = _blend(plain, rope.factor, np.clip((turns - low) / (high - low), 0, 1))
        case "yarn":
            first, last = (
                _pair_with_turns(rope, width, n) for n in (rope.beta_fast, rope.beta_slow)
            )
            if rope.truncate:
                first, last = math.floor(first), math.ceil(last)
            first, last = max(first, 0), min(last, width - 1)
            steps = (last - first) or 0.001
            kept = 1 - np.clip((np.arange(width // 2) - first) / steps, 0, 1)
            scaled = _blend(plain, rope.factor, kept)
        case "longrope":
            scaled = plain[None] / np.array([rope.short_factors, rope.long_factors])
    return scaled.astype(np.float32)


def _blend(plain: np.ndarray, factor: float, kept: np.ndarray) -> np.ndarray:
    return (plain * kept + plain / factor * (1 - kept))[None]


def _pair_with_turns(rope: Rope, width: int, turns: float) -> float:
    """The (fractional) number of the pair that makes `turns` turns within the original context."""
    longest = rope.original_positions / (turns * 2 * math.pi)
    return width * math.log(longest) / (2 * math.log(rope.theta))


class Rotation(NamedTuple):
    """cos and sin of the angle of each pair of channels, in float32."""

    cos: Float[Array, "B L half"]
    sin: Float[Array, "B L half"]


def rotation(
    positions: Int[Array, "B L"], segment_ids: Int[Array, "B L"], rope: Rope, width: int
) -> Rotation:
    """The rotation by `position * frequency`; cos and sin are multiplied by the amplitude.

    Segment ids of a row are between 0 and its length.
    """
    table = jnp.asarray(frequencies(rope, width))
    angle = positions[..., None].astype(jnp.float32) * table[:1][None]
    if len(table) > 1:
        long = last_positions(positions, segment_ids) >= rope.original_positions
        angle = jnp.where(
            long[..., None], positions[..., None].astype(jnp.float32) * table[1:][None], angle
        )
    return Rotation(jnp.cos(angle) * rope.amplitude, jnp.sin(angle) * rope.amplitude)


def last_positions(
    positions: Int[Array, "B L"], segment_ids: Int[Array, "B L"]
) -> Int[Array, "B L"]:
    """The largest position of each token's segment."""

    def of_row(positions: Int[Array, " L"], segment_ids: Int[Array, " L"]) -> Int[Array, " L"]:
        segments = len(segment_ids) + 1  # every id from 1 on has a token, and 0 is padding
        return jax.ops.segment_max(positions, segment_ids, num_segments=segments)[segment_ids]

    return jax.vmap(of_row)(positions, segment_ids)


def rotate(
    x: Float[Array, "B L H C"], rotation: Rotation, *, interleaved: bool = False
) -> Float[Array, "B L H C"]:
    """The channels of `x`, the first ones rotated in pairs by the angles of their position."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    width = 2 * rotation.cos.shape[-1]
    rotated, rest = x[..., :width].astype(dtype), x[..., width:]
    cos, sin = (part[:, :, None, :].astype(dtype) for part in rotation)
    if interleaved:
        first, second = rotated[..., 0::2], rotated[..., 1::2]
    else:
        first, second = jnp.split(rotated, 2, axis=-1)
    pairs = [first * cos - second * sin, second * cos + first * sin]
    if interleaved:
        rotated = jnp.stack(pairs, axis=-1).reshape(rotated.shape)
    else:
        rotated = jnp.concatenate(pairs, axis=-1)
    rotated = rotated.astype(x.dtype)
    return jnp.concatenate([rotated, rest], axis=-1) if rest.shape[-1] else rotated
