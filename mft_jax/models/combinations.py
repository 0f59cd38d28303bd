"""The combinations of capabilities that some model family has.

A combination lists the values of a capability that its families use; a capability that it does not
list must have its default. A decoder that fits none was never compared with a reference and is
refused.
"""

from collections.abc import Mapping
from typing import Any

from mft_jax.types import MftError

BOTH = (False, True)

SUPPORTED: dict[str, dict[str, tuple[Any, ...]]] = {
    "gated, root-mean-square norms, rotary": {
        "qkv_bias": BOTH,
        "out_bias": BOTH,
        "mlp_bias": BOTH,
        "tied_head": BOTH,
        "window": BOTH,
        "scaling": ("none", "linear", "wavelength", "yarn"),
    },
    "gated, with norms of queries and keys": {
        "qk_norm": (True,),
        "qkv_bias": BOTH,
        "out_bias": BOTH,
        "tied_head": BOTH,
        "window": BOTH,
        "scaling": ("none", "yarn"),
    },
    "gated, packed projections": {
        "qkv": ("packed",),
        "mlp": ("packed_gated",),
        "tied_head": BOTH,
        "window": BOTH,
        "fraction": BOTH,
        "scaling": ("none", "longrope"),
    },
    "gated, packed projections, interleaved rotation": {
        "qkv": ("packed", "packed_by_head"),
        "qkv_bias": (True,),
        "mlp": ("packed_gated",),
        "fraction": (True,),
        "interleaved": (True,),
    },
    "gated, packed attention": {
        "qkv": ("packed",),
        "qkv_bias": BOTH,
        "positions": ("rotary", "alibi"),
        "normalized_head": BOTH,
    },
    "experts": {
        "experts": (True,),
        "qkv_bias": BOTH,
        "tied_head": BOTH,
        "window": BOTH,
    },
    "experts, with norms of queries and keys": {
        "experts": (True,),
        "qk_norm": (True,),
        "qkv_bias": BOTH,
        "out_bias": BOTH,
        "tied_head": BOTH,
        "scaling": ("none", "yarn"),
    },
    "experts and latent attention": {
        "experts": (True,),
        "latent": (True,),
        "interleaved": (True,),
        "scaling": ("none", "yarn"),
    },
    "learned positions": {
        "positions": ("learned",),
        "norm": ("layer",),
        "qkv": ("packed", "packed_by_head"),
        "qkv_bias": (True,),
        "out_bias": (True,),
        "mlp": ("plain",),
        "mlp_bias": (True,),
        "activation": ("gelu", "gelu_tanh"),
        "tied_head": BOTH,
    },
    "plain feed-forward, layer norms, rotary": {
        "norm": ("layer",),
        "qkv_bias": BOTH,
        "out_bias": BOTH,
        "mlp": ("plain",),
        "mlp_bias": BOTH,
        "activation": ("gelu_tanh",),
        "tied_head": BOTH,
        "window": BOTH,
        "scaling": ("none", "linear", "yarn"),
    },
    "plain feed-forward, packed attention": {
        "norm": ("layer",),
        "qkv": ("packed_by_head",),
        "qkv_bias": BOTH,
        "out_bias": BOTH,
        "mlp": ("plain",),
        "mlp_bias": (True,),
        "activation": ("gelu", "gelu_tanh"),
        "block": ("sequential", "parallel"),
        "fraction": BOTH,
        "tied_head": BOTH,
    },
    "plain feed-forward parallel to attention, one norm": {
        "norm": ("layer",),
        "qkv_bias": (True,),
        "out_bias": (True,),
        "mlp": ("plain",),
        "mlp_bias": (True,),
        "activation": ("gelu_tanh",),
        "block": ("parallel_one_norm",),
        "fraction": (True,),
        "head_bias": (True,),
    },
    "norms as distances from 1": {
        "norm_offset": (True,),
        "qkv_bias": BOTH,
        "out_bias": BOTH,
        "activation": ("gelu_tanh",),
        "embedding_scale": (True,),
        "tied_head": BOTH,
    },
    "norms as distances from 1, before and after": {
        "norm_offset": (True,),
        "post_norms": (True,),
        "qk_norm": BOTH,
        "qkv_bias": BOTH,
        "out_bias": BOTH,
        "activation": ("gelu_tanh",),
        "embedding_scale": (True,),
        "attention_scale": (True,),
        "attention_softcap": BOTH,
        "final_softcap": BOTH,
        "window": (True,),
        "local_rope": BOTH,
        "tied_head": BOTH,
        "scaling": ("none", "linear"),
    },
}


def differences(
    capabilities: Mapping[str, Any], combination: str, defaults: Mapping[str, Any]
) -> list[str]:
    """The capabilities of a decoder that `combination` does not allow."""
    allowed = {name: (value,) for name, value in defaults.items()} | SUPPORTED[combination]
    return [
        f"{name}={value!r} (expected {' or '.join(map(repr, allowed[name]))})"
        for name, value in capabilities.items()
        if value not in allowed[name]
    ]


def check_combination(capabilities: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise `MftError` where no family combines these capabilities, naming the nearest one that a
    family has."""
    found = {name: differences(capabilities, name, defaults) for name in SUPPORTED}
    nearest = min(found, key=lambda name: len(found[name]))
    if found[nearest]:
        raise MftError(
            "no supported family combines these capabilities, so the result could not be compared "
            f"with a reference; the nearest combination is '{nearest}', which differs in: "
            + "; ".join(found[nearest])
        )
