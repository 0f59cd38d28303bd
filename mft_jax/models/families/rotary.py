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


# What each kind of scaling reads, beside `rope_theta` and `partial_rotary_factor`: a key in the
# first part must be there.
ORIGINAL = "original_max_position_embeddings"
READ: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "none": ((), ("factor",)),
    "linear": (("factor",), ()),
    "wavelength": (("factor", "low_freq_factor", "high_freq_factor"), (ORIGINAL,)),
    "yarn": (
        ("factor",),
        (ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
    ),
    "longrope": (("short_factor", "long_factor"), (ORIGINAL, "factor", "attention_factor")),
}
COMMON = {"type", "rope_type", "rope_theta", "partial_rotary_factor"}


def read_rope(
    keys: Keys, *, theta: float = 10000.0, turned: float = 1.0, part: str = "", **fixed: Any
) -> Rope:
    """From the top level and `rope_scaling` (transformers 4), or from `rope_parameters`
    (transformers 5), where `part` may name a kind of layers. `theta` and the share `turned` hold
    where the config is silent; `fixed` are fields of `Rope`.
    """
    nested = keys.mapping("rope_parameters") or keys.mapping("rope_scaling")
    nested = nested.get(part, nested)
    named = nested.get("rope_type", nested.get("type", "default"))
    if named not in KINDS:
        keys.problems.append(
            f"rope scaling of type {named!r}; expected one of {', '.join(KINDS)}: positions would "
            "be turned by the wrong angles"
        )
        return Rope()
    kind = KINDS[named]
    needed, known = READ[kind]
    missing = [key for key in needed if nested.get(key) is None]
    unknown = sorted(nested.keys() - COMMON - {*needed, *known})
    if nested.get("truncate") is True:
        unknown.remove("truncate")  # what is computed here
    keys.problems += [f"rope scaling {named!r} has no {key!r}" for key in missing]
    keys.problems += [f"rope scaling {named!r}: {k}={nested[k]!r} is not known" for k in unknown]
    if missing or unknown:
        return Rope()
    fields: dict[str, Any] = {
        "theta": keys.number("rope_theta", keys.number("rope_theta", theta), nested),
        "fraction": keys.number(
            "partial_rotary_factor", keys.number("partial_rotary_factor", turned), nested
        ),
        "scaling": kind,
    }
    if kind != "none":
        fields["factor"] = keys.number("factor", 1.0, nested)
    read = {"wavelength": _llama3, "yarn": _yarn, "longrope": _longrope}.get(kind)
    fields |= read(keys, nested) if read else {}
    return Rope(**fields | fixed)


def _original(keys: Keys, nested: Mapping[str, Any]) -> int:
    default = keys.count(ORIGINAL, keys.count("max_position_embeddings", 2048, least=1), least=1)
    return int(keys.number(ORIGINAL, default, nested))


def _llama3(keys: Keys, nested: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "original_positions": _original(keys, nested),
        "low_frequency_factor": keys.number("low_freq_factor", 1.0, nested),
        "high_frequency_factor": keys.number("high_freq_factor", 4.0, nested),
    }


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """YaRN (arXiv 2309.00071), Eq. 22: what cos and sin grow by with the context's length."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _yarn(keys: Keys, nested: Mapping[str, Any]) -> dict[str, Any]:
    factor = keys.number("factor", 1.0, nested)
    amplitude = yarn_magnitude(factor)
    if nested.get("mscale") and nested.get("mscale_all_dim"):
        own, all_channels = (keys.number(k, 1.0, nested) for k in ("mscale", "mscale_all_dim"))
        amplitude = yarn_magnitude(factor, own) / yarn_magnitude(factor, all_channels)
    return {
        "original_positions": _original(keys, nested),
        "beta_fast": keys.number("beta_fast", 32.0, nested),
        "beta_slow": keys.number("beta_slow", 1.0, nested),
        "amplitude": keys.number("attention_factor", amplitude, nested),
    }


def _longrope(keys: Keys, nested: Mapping[str, Any]) -> dict[str, Any]:
    original = _original(keys, nested)
    longest = keys.count("max_position_embeddings", original, least=1)
    factor = keys.number("factor", longest / original, nested)
    amplitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return {
        "factor": factor,
        "original_positions": original,
        "short_factors": _factors(keys, nested, "short_factor"),
        "long_factors": _factors(keys, nested, "long_factor"),
        "amplitude": keys.number("attention_factor", amplitude, nested),
    }


def _factors(keys: Keys, nested: Mapping[str, Any], key: str) -> tuple[float, ...]:
    value = nested[key]
    if isinstance(value, list) and all(isinstance(x, int | float) and x > 0 for x in value):
        return tuple(map(float, value))
    keys.problems.append(f"{key}={value!r}; expected a list of numbers above 0")
    return ()
