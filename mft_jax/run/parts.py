"""The parts of a run, built from its configuration: its checks, its step. No loop, no state."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from mft_jax import optim, sharding
from mft_jax.balancers.base import Balancer
from mft_jax.balancers.registry import STATE_VERSION, make_balancer
from mft_jax.config import TrainConfig
from mft_jax.finetune.attach import trainable_shapes
from mft_jax.forward import StepSpec, task_nll
from mft_jax.losses import make_objective
from mft_jax.models.params import param_infos, vectors
from mft_jax.run.base_model import Model, Prepared
from mft_jax.run.batches import Data, place_batch
from mft_jax.task_gradients import task_gramian
from mft_jax.train_state import TrainState
from mft_jax.train_step import make_train_step
from mft_jax.types import Batch, MftError, Params, TaskSums


def check_rows(config: TrainConfig, mesh: Mesh) -> None:
    """Rows must divide evenly over micro-batches and the mesh's data and fsdp axes."""
    divisor = sharding.rows_divisor(mesh)
    loop = config.loop
    for name, rows, parts in (
        ("loop.rows_per_step", loop.rows_per_step, loop.micro_batches * divisor),
        ("loop.valid_rows", loop.valid_rows, divisor),
    ):
        if parts < 1 or rows < 1 or rows % parts:
            raise MftError(
                f"{name}={rows} must be a positive multiple of {parts} (loop.micro_batches="
                f"{loop.micro_batches}, mesh data={mesh.shape['data']} x fsdp="
                f"{mesh.shape['fsdp']} devices); change the rows or the mesh"
            )


@dataclasses.dataclass(frozen=True)
class StepFunctions:
    """The compiled functions of a run and the state they start from."""

    compute: StepSpec
    balancer: Balancer
    balancer_identity: dict[str, Any]  # kept with its state
    step: Any  # the jitted TrainStep
    evaluate: Callable[[Params, Params, Batch], TaskSums]
    diagnose: Callable[[Params, Params, Batch], jax.Array]  # the Gramian of task gradients
    init_state: Callable[[Params, TaskSums], TrainState]
    init_balancer: Callable[[TaskSums], Any]


def build_step_functions(
    config: TrainConfig, model: Model, mesh: Mesh, data: Data
) -> StepFunctions:
    tasks = data.tasks.table
    num_tasks = len(tasks)
    steps = config.loop.steps
    compute = _computation(config, model, mesh, data)
    balancer = _balancer(config, data)
    infos = param_infos(model.config)
    optimizer = optim.optimizer(config.optim, steps, vectors(infos))
    whole = sharding.replicated(mesh)
    trainable = sharding.tree_shardings(mesh, infos, model.trainable)

    def init_state(params: Params, initial: TaskSums) -> TrainState:
        zero = jax.numpy.zeros((), jax.numpy.int32)
        return TrainState(zero, params, optimizer.init(params), balancer.init(num_tasks, initial))

    absent = TaskSums(np.ones(num_tasks, np.float32), np.ones(num_tasks, np.float32))
    shapes = jax.eval_shape(init_state, model.trainable, absent)
    where = TrainState(
        step=cast(Any, whole),
        trainable=trainable,
        opt_state=optax.tree.map_params(
            optimizer,
            lambda _, placed: placed,
            shapes.opt_state,
            trainable,
            transform_non_params=lambda _: whole,
        ),
        balancer=jax.tree.map(lambda _: whole, shapes.balancer),
    )
    step = make_train_step(compute, balancer, optimizer, optim.learning_rate(config.optim, steps))
    return StepFunctions(
        compute=compute,
        balancer=balancer,
        balancer_identity={
            "name": config.balancer.name,
            "version": STATE_VERSION,
            "tasks": list(tasks.names),
        },
        step=jax.jit(step, donate_argnums=0, out_shardings=(where, None)),
        evaluate=jax.jit(functools.partial(task_nll, compute), out_shardings=whole),
        diagnose=jax.jit(functools.partial(task_gramian, compute), out_shardings=whole),
        init_state=jax.jit(init_state, out_shardings=where),
        init_balancer=jax.jit(
            functools.partial(balancer.init, num_tasks), out_shardings=where.balancer
        ),
    )


def _computation(config: TrainConfig, model: Model, mesh: Mesh, data: Data) -> StepSpec:
    return StepSpec(
        model_config=model.config,
        tuning=model.finetune,
        objective=make_objective(config.objective, data.tasks.table, data.tasks.expected_counts),
        dtype=config.model.compute_dtype,
        remat=config.model.remat,
        vocab_chunk=config.objective.vocab_chunk,
        seed=config.seed,
        placement=sharding.placement(mesh, param_infos(model.config)),
    )


def _balancer(config: TrainConfig, data: Data) -> Balancer:
    return make_balancer(
        config.balancer,
        data.tasks.table,
        total_steps=config.loop.steps,
        valid_micro_batches=data.tasks.valid_micro_batches,
    )


def check_steps(config: TrainConfig, model: Prepared, data: Data) -> None:
    """What would fail when the step is built, found before the weights are read."""
    optim.learning_rate(config.optim, config.loop.steps)
    balancer = _balancer(config, data)
    check_task_gradients(config, balancer, model, len(data.tasks.table))


def check_task_gradients(
    config: TrainConfig, balancer: Balancer, model: Prepared, num_tasks: int
) -> None:
    """Gradients of every task must fit their bound; it is all that grows with the tasks."""
    if "task_gradients" not in balancer.needs and not config.loop.diagnose_every_steps:
        return
    who = (
        f"balancer.name={config.balancer.name!r}"
        if "task_gradients" in balancer.needs
        else f"loop.diagnose_every_steps={config.loop.diagnose_every_steps}"
    )
    if config.objective.router_loss:
        raise MftError(
            f"{who} needs the gradient of every task, and objective.router_loss belongs to none: "
            "set it to 0, or choose a balancer of losses"
        )
    infos = param_infos(model.config)
    shared = [path for path in model.adapted if infos[path].kind != "matrix"]
    if shared:
        raise MftError(
            f"{who} needs the gradient of every task, which adapters of embedding, head and "
            f"experts do not keep apart ({', '.join(sorted(shared))}); leave them out of "
            "finetune.targets"
        )
    leaves = jax.tree.leaves(trainable_shapes(model.finetune, infos))
    gib = num_tasks * sum(4 * leaf.size for leaf in leaves) / 2**30
    bound = config.balancer.max_task_gradients_gib
    if gib > bound:
        raise MftError(
            f"{who} needs the gradients of {num_tasks} tasks over "
            f"{model.finetune.method} training: {gib:,.3g} GiB (over all devices), more than "
            f"balancer.max_task_gradients_gib={bound:g}; train adapters (finetune.method=qlora), "
            "choose a balancer of losses and "
            "loop.diagnose_every_steps=0, or raise the bound"
        )


def full_pass(
    functions: StepFunctions, trainable: Params, frozen: Params, data: Data, mesh: Mesh
) -> TaskSums:
    """Nll of the whole validation set; summed in float64 on the host."""
    zeros = np.zeros(len(data.tasks.table))
    total = TaskSums(zeros, zeros)
    for batch in data.valid_pass:
        sums = functions.evaluate(trainable, frozen, place_batch(batch, mesh))
        total = total.merge(TaskSums(*(np.asarray(leaf, np.float64) for leaf in sums)))
    return total
