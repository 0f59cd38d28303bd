"""FAMO, fast adaptive multitask optimisation (Liu et al., NeurIPS'23, arXiv 2306.03792).

Maximise the least rate of improvement over tasks, max_d min_i (log L_i - log L_i(after d)): its
dual is a min over the simplex, z = softmax(xi), which FAMO solves by one gradient step on xi per
optimiser step, with the change of log L_i that the step itself made:

    D_i = L_i + eps           weights  w_i = (z_i / D_i) / c,  c = sum_i z_i / D_i   (Algorithm 1)
    after the step            delta_i = log D_i - log D_i'
                              xi <- Adam(xi, z * (delta - <z, delta>) + gamma xi)

The decay gamma is added to the gradient before Adam (coupled L2), as in the authors' code. D_i' is
measured on the same batch under the new parameters, which costs one more forward pass.

`signal="valid"` is FAMO* of the CoBa paper and KDD Eq. 4 of MFTCoder, whose maximin over the
improvement of validation losses is solved the same way, one step on xi per optimiser step: L and
L' are those of the validation micro-batch before and after the step, and the training loss keeps
its own scale, w = z.

An absent task has delta 0, and its logit, moments and step count stay as they are.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mft_jax.balancers.base import NEEDED_LOSSES, Balancer, LossSignal, Need, Signals, losses_of
from mft_jax.balancers.task_adam import TaskAdam, start_adam, step_adam
from mft_jax.types import TaskSums, at_least

EPSILON = 1e-8


@dataclasses.dataclass(frozen=True)
class FamoConfig:
    """`gamma`: decay of the logits towards equal weights (0.001 in the FAMO paper's runs, 0.01 in
    the CoBa paper's).
    """

    learning_rate: float = 0.025
    gamma: float = 1e-3

    def __post_init__(self) -> None:
        at_least("balancer.famo", self, learning_rate=0, gamma=0)


class FamoState(NamedTuple):
    logits: TaskAdam
    log_loss: Float[Array, " T"]  # log D_i of the step under way
    present: Bool[Array, " T"]


def famo(
    *, learning_rate: float = 0.025, gamma: float = 1e-3, signal: LossSignal = "train"
) -> Balancer:
    def init(num_tasks: int, valid_losses: TaskSums) -> FamoState:
        zeros = jnp.zeros((num_tasks,))
        return FamoState(start_adam(zeros), zeros, jnp.zeros((num_tasks,), bool))

    def update(state: FamoState, signals: Signals) -> tuple[Float[Array, " T"], FamoState]:
        losses = losses_of(signal, signals)
        present, log_loss = losses.present(), _log_loss(losses)
        z = jax.nn.softmax(state.logits.value)
        state = FamoState(state.logits, log_loss, present)
        if signal == "valid":
            return z, state
        pulled = jnp.where(present, z / jnp.exp(log_loss), 0.0)
        total = pulled.sum()
        return pulled / jnp.where(total > 0, total, 1.0), state

    def after_step(state: FamoState, losses: TaskSums) -> FamoState:
        present = state.present & losses.present()
        delta = jnp.where(present, state.log_loss - _log_loss(losses), 0.0)
        z = jax.nn.softmax(state.logits.value)
        gradient = z * (delta - jnp.dot(z, delta)) + gamma * state.logits.value
        return state._replace(logits=step_adam(state.logits, gradient, present, learning_rate))

    def logs(state: FamoState) -> dict[str, Array]:
        return {"logit": state.logits.value}

    after: Need = "post_step_train_losses" if signal == "train" else "post_step_valid_losses"
    needs: frozenset[Need] = frozenset({NEEDED_LOSSES[signal], after})
    return Balancer(init, update, logs, needs, after_step=after_step)


def _log_loss(losses: TaskSums) -> Float[Array, " T"]:
    return jnp.log(jnp.where(losses.present(), losses.mean(), 1.0) + EPSILON)
