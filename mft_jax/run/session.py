"""One session of a run: from its lock to the end of its record."""

import contextlib
from pathlib import Path

from mft_jax.config import TrainConfig
from mft_jax.run.build import build
from mft_jax.run.display import Display
from mft_jax.run.folder import locked
from mft_jax.run.interruption import stop_signals
from mft_jax.run.loop import begin, resume, take_steps
from mft_jax.run.processes import on_first
from mft_jax.run.recorder import end_record
from mft_jax.run.run_line import run_record
from mft_jax.run.trained import Trained


def train(config: TrainConfig, workdir: Path, display: Display) -> Trained:
    """Train, or resume, to the end, to early stopping, or to a signal. Raises `MftError`."""
    with locked(workdir), contextlib.ExitStack() as stack:
        run, trainable = build(config, workdir, display, stack)
        stop = stack.enter_context(stop_signals())
        header = run_record(
            config, run.base, run.data, run.mesh, dict(run.functions.balancer.titles)
        )
        run.view.header(header)
        if not run.has_finished:
            on_first("open the record", lambda: run.log.open(run.resumed_at))
            run.log.write(header)
        outcome = begin(run, trainable) if run.resumed_at is None else resume(run, run.resumed_at)
        del trainable  # the state has taken it over
        take_steps(run, outcome, stop)
        if not run.has_finished:
            run.log.write(end_record(outcome.step, outcome.reason, outcome.seconds))
    done = outcome.state, outcome.progress, outcome.step, outcome.reason
    return Trained(config, workdir, run.checkpoints.folder, run.base, run.weights, *done)
