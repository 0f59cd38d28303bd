"""FairGrad (Ban and Ji, ICML'24, arXiv 2402.15638, Eq. 6): alpha-fair utilities of the tasks.

w > 0 with G w = w^(-1/alpha). alpha -> 0 leans to the largest improvements in sum, alpha = 1 is
proportional fairness (Nash-MTL), a large alpha leans to max-min. Weights are on the scale of the
equation, the inverse of that of the gradients.
"""

import dataclasses

from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer
from mft_jax.balancers.gramian import from_gramian, solve_product
from mft_jax.types import MftError


@dataclasses.dataclass(frozen=True)
class FairgradConfig:
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise MftError(f"balancer.fairgrad.alpha={self.alpha}: expected more than 0")


def fairgrad_weights(gramian: Float[Array, "T T"], alpha: float = 1.0) -> Float[Array, " T"]:
    return solve_product(gramian, 1.0 / alpha)


def fairgrad(*, alpha: float = 1.0) -> Balancer:
    return from_gramian(lambda gramian: fairgrad_weights(gramian, alpha))
