"""Everything that changes from step to step, and therefore everything that is checkpointed."""

from typing import Any, NamedTuple

from jaxtyping import Array, Int

from mft_jax.types import Params


class TrainState(NamedTuple):
    """The state of a run, except the data cursor, which the loader keeps. Frozen weights are not
    part of it: they are read again from the model's folder.
    """

    step: Int[Array, ""]  # optimiser steps taken
    trainable: Params
    opt_state: Any
    balancer: Any
