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
its own scale, w = z. `balancer.name="famo_valid"` names it directly.

An absent task has delta 0, and its logit, moments and step count stay as they are.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mft_jax.arrays import safe_divide
from mft_jax.balancers.base import (
    NEEDED_LOSSES,
    Balancer,
    Need,
    RunFacts,
    Signals,
    losses_of,
)
from mft_jax.balancers.task_adam import TaskAdam, start_adam, step_adam
from mft_jax.record.schema import Quantity
from mft_jax.types import TaskSums, at_least

EPSILON = 1e-8
TITLES = (("logit", Quantity("Logit", "xi; the tasks' shares are its softmax")),)


@dataclasses.dataclass(frozen=True)
class FamoConfig:
    """Settings of FAMO.

    learning_rate  of the logits of the weights
    gamma          decay of the logits towards equal weights; 0.001 in the FAMO paper, 0.01 in the
                   CoBa paper
    """

    learning_rate: float = 0.025
    gamma: float = 1e-3

    def __post_init__(self) -> None:
        at_least("balancer.famo", self, learning_rate=0, gamma=0)


class FamoState(NamedTuple):
    logits: TaskAdam
    log_loss: Float[Array, " T"]  # log D_i of the step under way
    present: Bool[Array, " T"]


def famo(settings: FamoConfig, run: RunFacts) -> Balancer:
    """Weights by the improvement of log losses that the step itself made.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> before, after = (TaskSums(jnp.array(x), jnp.ones(2)) for x in ([2.0, 1.0], [1.8, 0.99]))
    >>> balancer = famo(FamoConfig(gamma=0.01), run)
    >>> weight, state = balancer.update(
    ...     balancer.init(2, before), Signals(jnp.int32(0), train_losses=before)
    ... )
    >>> [round(w, 4) for w in weight.tolist()]
    [0.3333, 0.6667]
    >>> state = balancer.after_step(state, after)
    >>> [round(x, 4) for x in state.logits.value.tolist()]  # "tests" improved less
    [-0.025, 0.025]
    """
    signal = run.signal

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
        return safe_divide(pulled, pulled.sum()), state

    def after_step(state: FamoState, losses: TaskSums) -> FamoState:
        present = state.present & losses.present()
        delta = jnp.where(present, state.log_loss - _log_loss(losses), 0.0)
        z = jax.nn.softmax(state.logits.value)
        gradient = z * (delta - jnp.dot(z, delta)) + settings.gamma * state.logits.value
        logits = step_adam(state.logits, gradient, present, settings.learning_rate)
        return state._replace(logits=logits)

    def logs(state: FamoState) -> dict[str, Array]:
        return {"logit": state.logits.value}

    after: Need = "post_step_train_losses" if signal == "train" else "post_step_valid_losses"
    needs: frozenset[Need] = frozenset({NEEDED_LOSSES[signal], after})
    return Balancer(init, update, logs, needs, after_step=after_step, titles=TITLES)


def famo_valid(settings: FamoConfig, run: RunFacts) -> Balancer:
    """FAMO of validation losses, for any `run.signal`: the weights are z itself.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> before, after = (TaskSums(jnp.array(x), jnp.ones(2)) for x in ([2.0, 1.0], [1.8, 0.99]))
    >>> balancer = famo_valid(FamoConfig(), run)
    >>> _, state = balancer.update(
    ...     balancer.init(2, before), Signals(jnp.int32(0), valid_losses=before)
    ... )
    >>> state = balancer.after_step(state, after)
    >>> weight, state = balancer.update(state, Signals(jnp.int32(1), valid_losses=after))
    >>> [round(w, 4) for w in weight.tolist()]  # "tests" improved less
    [0.4875, 0.5125]
    """
    return famo(settings, run._replace(signal="valid"))


def _log_loss(losses: TaskSums) -> Float[Array, " T"]:
    """log D_i = log(L_i + eps); an absent task counts as a loss of 1."""
    return jnp.log(jnp.where(losses.present(), losses.mean(), 1.0) + EPSILON)
