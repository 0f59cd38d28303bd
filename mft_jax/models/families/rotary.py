"""`Rope` from an HF config, in the words of transformers 4 and of transformers 5."""

import math
from collections.abc import Mapping
from typing import Any

from mft_jax.models.families.base import Keys
from mft_jax.models.rope import Rope

KINDS = {
    "default": "none",
    "linear": "linear",
    "llama3": "wavelength",
    "yarn": "yarn",
    "longrope": "longrope",
    "su": "longrope",  # its name in early checkpoints
}


def read_rope(
    keys: Keys, *, theta: float = 10000.0, turned: float = 1.0, part: str = "", **fixed: Any
) -> Rope:
    """From the top level and `rope_scaling` (transformers 4), or from `rope_parameters`
    (transformers 5), where `part` may name a kind of layers. `theta` and the share `turned` hold
    where the config is silent; `fixed` are fields of `Rope`.
    """
    nested = keys.get("rope_parameters", None) or keys.get("rope_scaling", {})
    nested = nested.get(part, nested)
    kind = nested.get("rope_type", nested.get("type", "default"))
    if kind not in KINDS:
        keys.problems.append(
            f"rope scaling of type {kind!r}; expected one of {', '.join(KINDS)}: positions would "
            "be turned by the wrong angles"
        )
        return Rope()
    fields: dict[str, Any] = {
        "theta": float(nested.get("rope_theta", keys.get("rope_theta", theta))),
        "fraction": float(
            nested.get("partial_rotary_factor", keys.get("partial_rotary_factor", turned))
        ),
        "scaling": KINDS[kind],
    }
    read = {"wavelength": _llama3, "yarn": _yarn, "longrope": _longrope}.get(KINDS[kind])
    if KINDS[kind] != "none":
        fields["factor"] = float(nested.get("factor") or 1.0)
    if read is not None:
        fields |= read(keys, nested)
    return Rope(**fields | fixed)


def _original(keys: Keys, nested: Mapping[str, Any]) -> int:
    name = "original_max_position_embeddings"
    return nested.get(name) or keys.get(name, keys.get("max_position_embeddings", 2048))


def _llama3(keys: Keys, nested: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "original_positions": _original(keys, nested),
        "low_frequency_factor": float(nested.get("low_freq_factor", 1.0)),
        "high_frequency_factor": float(nested.get("high_freq_factor", 4.0)),
    }


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """YaRN (arXiv 2309.00071), Eq. 22: what cos and sin grow by with the context's length."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _yarn(keys: Keys, nested: Mapping[str, Any]) -> dict[str, Any]:
    original = _original(keys, nested)
    factor = float(nested.get("factor") or keys.get("max_position_embeddings", 0) / original)
    own, all_channels = nested.get("mscale"), nested.get("mscale_all_dim")
    amplitude = nested.get("attention_factor")
    if amplitude is None and own and all_channels:
        amplitude = yarn_magnitude(factor, own) / yarn_magnitude(factor, all_channels)
    return {
        "factor": factor,
        "original_positions": original,
        "beta_fast": float(nested.get("beta_fast") or 32.0),
        "beta_slow": float(nested.get("beta_slow") or 1.0),
        "amplitude": float(yarn_magnitude(factor) if amplitude is None else amplitude),
    }


def _longrope(keys: Keys, nested: Mapping[str, Any]) -> dict[str, Any]:
    original = _original(keys, nested)
    factor = nested.get("factor") or keys.get("max_position_embeddings", original) / original
    amplitude = nested.get("attention_factor")
    if amplitude is None:
        amplitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return {
        "original_positions": original,
        "short_factors": tuple(map(float, nested.get("short_factor", ()))),
        "long_factors": tuple(map(float, nested.get("long_factor", ()))),
        "amplitude": float(amplitude),
    }
