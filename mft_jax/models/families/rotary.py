"""`Rope` from an HF config, by the keys of transformers 4 and of transformers 5."""

import math
from typing import Any

from mft_jax.models.families.base import ConfigReader, is_positive
from mft_jax.models.rope import Rope
from mft_jax.types import MftError

KINDS = {
    "default": "none",
    "linear": "linear",
    "llama3": "wavelength",
    "yarn": "yarn",
    "longrope": "longrope",
    "su": "longrope",  # the name in early checkpoints
}


# The keys of each kind of scaling, in addition to `COMMON`: those that must be there, and those
# that may be.
ORIGINAL = "original_max_position_embeddings"
READ: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "none": ((), ("factor",)),
    "linear": (("factor",), ()),
    "wavelength": (("factor", "low_freq_factor", "high_freq_factor"), (ORIGINAL,)),
    "yarn": (
        ("factor",),
        (
            ORIGINAL,
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ),
    ),
    "longrope": (("short_factor", "long_factor"), (ORIGINAL, "factor", "attention_factor")),
}
COMMON = {"type", "rope_type", "rope_theta", "partial_rotary_factor"}


def rope_part(reader: ConfigReader) -> ConfigReader:
    """`rope_scaling` (transformers 4) or `rope_parameters` (transformers 5). Where both are there,
    the first is read, as in transformers 5."""
    return reader.part("rope_scaling" if reader.get("rope_scaling", None) else "rope_parameters")


def rope(reader: ConfigReader, **fields: Any) -> Rope:
    """`Rope(**fields)`; its errors are collected with the config's other problems."""
    try:
        return Rope(**fields)
    except MftError as error:
        reader.problems.append(str(error))
        return Rope()


def read_rope(
    reader: ConfigReader, *, theta: float = 10000.0, fraction: float = 1.0, **fixed: Any
) -> Rope:
    """The rotation, from the top level and `rope_part`. `theta` and `fraction` are the defaults;
    `fixed` are further fields of `Rope`.
    """
    nested = rope_part(reader)
    named = nested.hf.get("rope_type", nested.hf.get("type", "default"))
    if not isinstance(named, str) or named not in KINDS:
        reader.problems.append(
            f"rope scaling of type {named!r}; expected one of {', '.join(KINDS)}: the angles of "
            "any other would be wrong"
        )
        return Rope()
    kind = KINDS[named]
    needed, known = READ[kind]
    missing = [key for key in needed if nested.get(key, None) is None]
    unknown = sorted(nested.hf.keys() - COMMON - {*needed, *known})
    if "truncate" in unknown and nested.hf["truncate"] is True:
        unknown.remove("truncate")  # the default, and without a meaning in other kinds
    reader.problems += [
        f"rope scaling {named!r} has no {key!r}; expected a value" for key in missing
    ]
    reader.problems += [
        f"rope scaling {named!r}: {key}={nested.hf[key]!r} is not known; expected only "
        f"{', '.join(sorted(COMMON | {*needed, *known}))}"
        for key in unknown
    ]
    if missing or unknown:
        return Rope()
    fields: dict[str, Any] = {
        "theta": nested.number("rope_theta", reader.number("rope_theta", theta)),
        "fraction": nested.number(
            "partial_rotary_factor", reader.number("partial_rotary_factor", fraction)
        ),
        "scaling": kind,
    }
    if kind != "none":
        fields["factor"] = nested.number("factor", 1.0)
    read = {"wavelength": _llama3, "yarn": _yarn, "longrope": _longrope}.get(kind)
    fields |= read(reader, nested) if read else {}
    return rope(reader, **fields | fixed)


def _original(reader: ConfigReader, nested: ConfigReader) -> int:
    """The original length, by the top level or else the part, as in transformers. At least 2, since
    its logarithm is a divisor."""
    inner = nested.count(ORIGINAL, reader.size("max_position_embeddings"), least=2)
    return max(reader.count(ORIGINAL, inner, least=2), 2)


def _llama3(reader: ConfigReader, nested: ConfigReader) -> dict[str, Any]:
    return {
        "original_positions": _original(reader, nested),
        "low_frequency_factor": nested.number("low_freq_factor", 1.0),
        "high_frequency_factor": nested.number("high_freq_factor", 4.0),
    }


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """YaRN (arXiv 2309.00071), Eq. 22: the factor of cos and sin for a longer context."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _yarn(reader: ConfigReader, nested: ConfigReader) -> dict[str, Any]:
    factor = nested.number("factor", 1.0)
    amplitude = yarn_magnitude(factor)
    if nested.get("mscale", 0) and nested.get("mscale_all_dim", 0):
        one, all_channels = (nested.number(key, 1.0) for key in ("mscale", "mscale_all_dim"))
        amplitude = yarn_magnitude(factor, one) / yarn_magnitude(factor, all_channels)
    return {
        "original_positions": _original(reader, nested),
        "beta_fast": nested.number("beta_fast", 32.0),
        "beta_slow": nested.number("beta_slow", 1.0),
        # Null means false, as in transformers.
        "truncate": nested.flag("truncate", "truncate" not in nested.hf),
        "amplitude": nested.number("attention_factor", amplitude),
    }


def _longrope(reader: ConfigReader, nested: ConfigReader) -> dict[str, Any]:
    original = _original(reader, nested)
    factor = nested.number("factor", reader.size("max_position_embeddings") / original)
    amplitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return {
        "factor": factor,
        "original_positions": original,
        "short_factors": _factors(nested, "short_factor"),
        "long_factors": _factors(nested, "long_factor"),
        "amplitude": nested.number("attention_factor", amplitude),
    }


def _factors(nested: ConfigReader, key: str) -> tuple[float, ...]:
    value = nested.hf[key]
    if isinstance(value, list) and all(map(is_positive, value)):
        return tuple(map(float, value))
    nested.problems.append(f"{key}={value!r}; expected a list of finite numbers above 0")
    return ()
