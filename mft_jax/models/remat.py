"""What the forward pass of a layer keeps for its backward pass, by one word, `Remat`.

    none      all that differentiation asks for; nothing is computed again
    dots      the output of every product with a weight, and of attention: norms, activations,
              rotations and products with adapters are computed again
    inputs    as dots without the wide products of the feed-forward, which are computed again
    block     the layer's input; all of the layer is computed again
    offload   as block, with the inputs in the host's memory until they are needed

The inputs of q, k and v, and of gate and up, follow by a norm from what the other forms keep; none
keeps each of them once. A number that is kept of a product saves two operations for every feature
that goes in, almost everywhere the model's width: no product is dearer to keep than another.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.ad_checkpoint import checkpoint_name

Remat = Literal["none", "dots", "inputs", "block", "offload"]

# Names of the values that a form can keep.
LAYER_INPUT = "layer_input"
PRODUCT = "product"  # the output of a product with a weight
WIDE_PRODUCT = "wide_product"  # of one into the width of the feed-forward
ATTENTION = "attention"  # its output, and what a backend keeps beside it

KEPT = {"dots": (PRODUCT, WIDE_PRODUCT, ATTENTION), "inputs": (PRODUCT, ATTENTION)}

named = checkpoint_name


def rematerialised(layer: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """The layer, with its values kept or computed again in its backward pass."""
    if remat == "none":
        return layer
    policies, policy = jax.checkpoint_policies, None
    if remat == "offload":
        policy = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[LAYER_INPUT],
            offload_src="device",
            offload_dst="pinned_host",
        )
    elif remat in KEPT:
        policy = policies.save_only_these_names(*KEPT[remat])
    # prevent_cse=False: inside a scan nothing can be merged across iterations anyway.
    return jax.checkpoint(layer, policy=policy, prevent_cse=False)
