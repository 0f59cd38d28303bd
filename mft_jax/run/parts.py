"""The parts of a run, built from its configuration: data, step. No loop, no state."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from mft_jax import gradients, optim, sharding
from mft_jax.balancers.base import Balancer
from mft_jax.balancers.registry import STATE_VERSION, make_balancer
from mft_jax.config import TrainConfig
from mft_jax.data.loader import (
    expected_counts,
    packed_rows,
    train_loader,
    valid_batches,
    valid_loader,
)
from mft_jax.data.mixture import Mixture
from mft_jax.data.templates import chat_tokenizer, stop_token
from mft_jax.data.tokenization import TokenizedData, load_data, task_mixture
from mft_jax.finetune.attach import trainable_shapes
from mft_jax.gradients import StepSpec
from mft_jax.huggingface.tokenizers import load_tokenizer
from mft_jax.losses import make_objective
from mft_jax.models.decoder import param_shapes
from mft_jax.run.base_model import BaseModelInfo
from mft_jax.run.checkpoints import placed_shapes
from mft_jax.run.console import Say
from mft_jax.train_state import TrainState
from mft_jax.train_step import make_train_step
from mft_jax.types import Batch, MftError, Params, TaskSums


@dataclasses.dataclass(frozen=True)
class Data:
    """Tokenized tasks and what reads them. Batches are NumPy, this process's rows alone."""

    tokenized: TokenizedData
    train: Any  # grain iterator with get_state and set_state
    valid: Any  # the balancer's micro-batch of each step, likewise
    passes: list[Batch]  # one full validation pass
    mixture: Mixture
    expected_counts: dict[str, np.ndarray]  # per task in an average global batch, by unit


def build_data(config: TrainConfig, base: BaseModelInfo, say: Say) -> Data:
    loop, length = config.loop, config.data.row_length
    tokenizer = load_tokenizer(base.folder, base.model_config.vocab_size)
    tokens = {
        "stop": stop_token(chat_tokenizer(tokenizer)),
        "end of text": tokenizer.eos_token,
        "padding": tokenizer.pad_token,
    }
    tokenized = load_data(config.data, tokenizer)
    named = (f"{what} {t!r} ({tokenizer.convert_tokens_to_ids(t)})" for what, t in tokens.items())
    say(f"tokens: {', '.join(named)}")
    shared = dict(
        row_length=length, process_index=jax.process_index(), process_count=jax.process_count()
    )
    steps = dict(num_batches=loop.steps, seed=config.seed)
    mixture = task_mixture(tokenized, config.data)
    train = train_loader(
        tokenized.train,
        rows_per_batch=loop.rows_per_step,
        micro_batches=loop.micro_batches,
        mixture=mixture,
        **steps,
        **shared,
    )
    valid = valid_loader(tokenized.valid, rows_per_batch=loop.valid_rows, **steps, **shared)
    passes = valid_batches(tokenized.valid, rows_per_batch=loop.valid_rows, **shared)
    rows = packed_rows(tokenized.train, length, config.seed, mixture).rows_per_epoch
    expected = expected_counts(tokenized.train, mixture, rows, loop.rows_per_step)
    return Data(tokenized, train, valid, passes, mixture, expected)


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
    """The compiled functions of a run.

    state_shapes  shapes, dtypes and shardings of the `TrainState`
    init_state    (what is trained, L_i(0) per task) -> state. It takes the first argument over: its
                  buffers become the state's
    """

    compute: StepSpec
    balancer: Balancer
    balancer_identity: dict[str, Any]  # kept with its state
    state_shapes: TrainState
    init_state: Callable[[Params, TaskSums], TrainState]
    step: Any  # the jitted TrainStep
    evaluate: Callable[[Params, Params, Batch], TaskSums]
    diagnose: Callable[[Params, Params, Batch], jax.Array]  # the Gramian of task gradients


def build_step_functions(
    config: TrainConfig, base: BaseModelInfo, mesh: Mesh, data: Data
) -> StepFunctions:
    tasks, steps = data.tokenized.tasks, config.loop.steps
    compute = _step_spec(config, base, mesh, data)
    balancer = _balancer(config, data)
    optimizer = optim.optimizer(config.optim, steps)
    whole = sharding.replicated(mesh)

    def init_state(trainable: Params, initial: TaskSums) -> TrainState:
        zero = jax.numpy.zeros((), jax.numpy.int32)
        balancer_state = balancer.init(len(tasks), initial)
        return TrainState(zero, trainable, optimizer.init(trainable), balancer_state)

    initial = TaskSums(*(jax.ShapeDtypeStruct((len(tasks),), np.float32) for _ in range(2)))
    shapes = jax.eval_shape(init_state, base.trainable_shapes, initial)
    where = _state_shardings(shapes, optimizer, mesh)
    step = make_train_step(compute, balancer, optimizer, optim.learning_rate(config.optim, steps))
    return StepFunctions(
        compute=compute,
        balancer=balancer,
        balancer_identity={
            "name": config.balancer.name,
            "version": STATE_VERSION,
            "tasks": list(tasks.names),
        },
        state_shapes=placed_shapes(shapes, where),
        init_state=jax.jit(init_state, donate_argnums=0, out_shardings=where),
        # Metrics are whole on every device: each process reads them.
        step=jax.jit(step, donate_argnums=0, out_shardings=(where, whole)),
        evaluate=jax.jit(functools.partial(gradients.task_nll, compute), out_shardings=whole),
        diagnose=jax.jit(functools.partial(gradients.diagnose, compute), out_shardings=whole),
    )


def _state_shardings(
    shapes: TrainState, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Moments lie as their parameter does; all else is whole on every device."""
    whole = sharding.replicated(mesh)
    trainable = sharding.tree_shardings(mesh, shapes.trainable)
    return TrainState(
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


def _step_spec(config: TrainConfig, base: BaseModelInfo, mesh: Mesh, data: Data) -> StepSpec:
    return StepSpec(
        model=base.model_config,
        finetune=base.tuning,
        objective=make_objective(config.objective, data.tokenized.tasks, data.expected_counts),
        dtype=config.model.compute_dtype,
        remat=config.model.remat,
        seed=config.seed,
        placement=sharding.placement(mesh),
    )


def _balancer(config: TrainConfig, data: Data) -> Balancer:
    return make_balancer(
        config.balancer,
        data.tokenized.tasks,
        total_steps=config.loop.steps,
        valid_micro_batches=len(data.passes),
    )


def check_steps(config: TrainConfig, base: BaseModelInfo, data: Data) -> None:
    """What would fail when the step is built, found before the weights are read."""
    optim.learning_rate(config.optim, config.loop.steps)
    balancer = _balancer(config, data)
    check_task_gradients(config, balancer, base, len(data.tokenized.tasks))


def check_task_gradients(
    config: TrainConfig, balancer: Balancer, base: BaseModelInfo, num_tasks: int
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
    shared = [p for p in base.adapted if p.endswith("/table") or base.model_config.is_expert(p)]
    if shared:
        raise MftError(
            f"{who} needs the gradient of every task, which adapters of embedding, head and "
            f"experts do not keep apart ({', '.join(sorted(shared))}); leave them out of "
            "finetune.targets"
        )
    leaves = jax.tree.leaves(trainable_shapes(base.tuning, param_shapes(base.model_config)))
    gib = num_tasks * sum(4 * leaf.size for leaf in leaves) / 2**30
    bound = config.balancer.max_task_gradients_gib
    if gib > bound:
        raise MftError(
            f"{who} needs the gradients of {num_tasks} tasks over "
            f"{base.tuning.method} training: {gib:,.3g} GiB (over all devices), more than "
            f"balancer.max_task_gradients_gib={bound:g}; train adapters (finetune.method=qlora), "
            "choose a balancer of losses and "
            "loop.diagnose_every_steps=0, or raise the bound"
        )


def place_batch(batch: Batch, mesh: Mesh) -> Batch:
    """This process's rows as part of the global batch; a leading micro-batch axis stays whole."""
    spec = sharding.batch_sharding(mesh, batch.tokens.ndim - 2)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(spec, x), batch)


def full_pass(
    functions: StepFunctions, trainable: Params, frozen: Params, data: Data, mesh: Mesh
) -> TaskSums:
    """Nll of the whole validation set; summed in float64 on the host."""
    zeros = np.zeros(len(data.tokenized.tasks))
    total = TaskSums(zeros, zeros)
    for batch in data.passes:
        sums = functions.evaluate(trainable, frozen, place_batch(batch, mesh))
        total = total.merge(TaskSums(*(np.asarray(leaf, np.float64) for leaf in sums)))
    return total
