"""The parts of a run, built in a numbered order from its configuration."""

import contextlib
import dataclasses
from pathlib import Path

from jax.sharding import Mesh

from mft_jax.config import LoopConfig, TrainConfig
from mft_jax.run import batches, parts
from mft_jax.run.base_model import BaseModelInfo, BaseWeights, load_base, load_untrained, prepare
from mft_jax.run.checkpoints import Checkpoints
from mft_jax.run.compiled import announced
from mft_jax.run.display import Display
from mft_jax.run.folder import check_or_write_config, saved_tuning
from mft_jax.run.recorder import MetricsLog, Recorder
from mft_jax.run.view import RunView
from mft_jax.sharding import make_mesh
from mft_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Run:
    """What does not change while the loop runs.

    resumed_at  the step of the checkpoint that the run continues from; None for a new run
    """

    loop_config: LoopConfig
    mesh: Mesh
    base: BaseModelInfo
    weights: BaseWeights
    data: batches.Data
    functions: parts.StepFunctions
    checkpoints: Checkpoints
    log: MetricsLog
    view: RunView
    recorder: Recorder
    resumed_at: int | None

    @property
    def has_finished(self) -> bool:
        """Whether an earlier session took the last step."""
        return self.resumed_at is not None and self.resumed_at >= self.loop_config.steps


def build(
    config: TrainConfig, workdir: Path, display: Display, stack: contextlib.ExitStack
) -> tuple[Run, Params]:
    """The run, and what it trains as it starts (nothing where it is resumed). `stack` closes what
    is opened here, also where something is refused. Raises `MftError`.
    """
    # 1. where: devices and their mesh; rows must fit it before anything is read
    mesh = make_mesh(config.mesh)
    parts.check_rows(config, mesh)
    # 2. what is trained, and on what: all that can be wrong, before a weight is read
    base = prepare(config, display.say, saved_tuning(workdir))
    data = batches.build_data(config, base, mesh, display.say, display.task_progress)
    parts.check_steps(config, base, data.tasks)
    # 3. where it begins: at a checkpoint, or anew
    checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir)))
    at = checkpoints.latest_step()
    if at is not None:
        checkpoints.check_names(at, base.trainable_shapes)
    check_or_write_config(workdir, config, base, data, resumed=at is not None)
    # 4. how it is trained (objective, balancer, optimiser, compiled step), and the weights
    functions = parts.build_step_functions(config, base, mesh, data.tasks)
    load = load_untrained if at is None else load_base
    weights, trainable = load(config, base, mesh, display.progress)
    # 5. where it is written and shown
    log = stack.enter_context(contextlib.closing(MetricsLog(workdir)))
    tasks, loop = data.tasks.table, config.loop
    view = display.run_view(tasks, loop.steps, loop.log_every_steps)
    stack.enter_context(contextlib.closing(view))
    functions = dataclasses.replace(
        functions,
        step=announced(functions.step, "compiling the training step", view.phase),
        evaluate=announced(functions.evaluate, "compiling the validation pass", view.phase),
    )
    recorder = Recorder(log, view.train, tasks)
    run = Run(loop, mesh, base, weights, data, functions, checkpoints, log, view, recorder, at)
    return run, trainable
