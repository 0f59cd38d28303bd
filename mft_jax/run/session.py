"""One session of a run: from its lock to the end of its record."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from mft_jax.config import TrainConfig
from mft_jax.record import schema
from mft_jax.run.build import Run, build
from mft_jax.run.changes import continuation
from mft_jax.run.display import Display
from mft_jax.run.divergence import Diverged, ways_out
from mft_jax.run.interruption import StopSignals, stop_signals
from mft_jax.run.lock import locked
from mft_jax.run.loop import Outcome, begin, resume, take_steps
from mft_jax.run.processes import of_first, on_first
from mft_jax.run.recorder import end_record, event_record
from mft_jax.run.run_line import run_record
from mft_jax.run.start import ANEW
from mft_jax.run.trained import Trained
from mft_jax.types import MftError, Params


def train(
    config: TrainConfig,
    workdir: Path,
    display: Display,
    checkpoint: str = "",
    resume_with: Mapping[str, Any] | None = None,
    stop: StopSignals | None = None,
) -> Trained:
    """Train, or resume, to the end, to early stopping, or to a signal. Raises `MftError`.

    checkpoint   where to begin (see `find_start`)
    resume_with  settings by name that change on the way (see `changes`)
    stop         the signals, where the caller has taken them already
    """
    with locked(workdir), contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(stop_signals())
        # One process alone may end at any time; of several, only where all do.
        stop.nothing_to_save = jax.process_count() == 1
        continued = continuation(workdir, config, resume_with or {}, anew=checkpoint == ANEW)
        run, trainable = build(continued, workdir, display, checkpoint, stack)
        config = continued.config
        header = run_record(
            config, run.base, run.data, run.mesh, dict(run.functions.balancer.titles)
        )
        run.view.header(header)
        complete = run.has_finished and of_first(int(_is_complete(run))) == 1
        if not complete:
            notes = on_first("open the record", lambda: run.log.open(run.resumed_at))
            run.log.write(header)
            for event in run.start.events(notes or []):
                run.log.write(event)
                run.view.say(event["text"])
            run.start.told()
        outcome = _steps(run, trainable, stop, config.optim.learning_rate)
        if not complete:
            run.log.write(end_record(outcome.step, outcome.reason, outcome.seconds))
    done = outcome.state, outcome.progress, outcome.step, outcome.reason
    return Trained(config, workdir, run.checkpoints.folder, run.base, run.weights, *done)


def _is_complete(run: Run) -> bool:
    """Whether the record of a finished run tells all that is known, and how the run ended."""
    told = all(run.log.holds(event) for event in run.start.events([]))
    return run.log.is_ended and told and not run.log.gap(run.start.step or 0)


def _steps(run: Run, trainable: Params, stop: StopSignals, learning_rate: float) -> Outcome:
    """All steps of the session. `trainable` is taken over."""
    if run.changes is not None and run.resumed_at is not None and not run.has_finished:
        event = event_record(run.resumed_at, schema.CHANGED, run.changes)
        if not run.log.holds(event):  # a session that went no further may have told it
            run.log.write(event)
        run.view.say(run.changes)
    try:
        outcome = begin(run, trainable) if run.resumed_at is None else resume(run, run.resumed_at)
        take_steps(run, outcome, stop)
    except Diverged as error:
        newest = run.checkpoints.latest_step()
        run.log.write(event_record(newest or 0, schema.STOPPED, str(error)))
        skips = run.loop_config.on_nonfinite == "skip"
        raise MftError(f"{error}; {ways_out(error, newest, learning_rate, skips=skips)}") from error
    return outcome
