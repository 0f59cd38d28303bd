"""`mft train`: parse, resolve, call; then the adapter, the report and the last word."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from rich.console import Console

from mft_jax.cli import arguments as args
from mft_jax.report.page import write_report
from mft_jax.report.record import read_record
from mft_jax.run import loop, recorder
from mft_jax.run.checkpoints import Checkpoints
from mft_jax.run.display import final_table
from mft_jax.run.export import save_run_adapter
from mft_jax.run.restore import TrainedModel


def run(arguments: Sequence[str]) -> int:
    values = flags.FlagValues()
    args.config_flag(values, arguments)
    flags.DEFINE_string(
        "workdir", None, "the run's folder; a run that it holds is resumed", flag_values=values
    )
    args.parse("train", arguments, values)
    config, workdir = args.resolved(values), Path(args.required_flag(values, "workdir"))
    console = Console(markup=False)
    run, outcome = loop.train(config, workdir, console)
    if jax.process_index() == 0:
        conclude(run, outcome, console)
    return 0


def conclude(run: loop.Run, outcome: loop.Outcome, console: Console) -> None:
    """The table, and where everything lies. An interrupted run says how to go on."""
    workdir = run.workdir
    report = write_report(workdir)
    if outcome.reason == "interrupted":
        saved = f"and saved at step {outcome.step}" if outcome.step else "before the first step"
        console.print(
            f"interrupted {saved}; the same command goes on",
            f"report      {report}",
            sep="\n",
            highlight=False,
            soft_wrap=True,
        )
        return
    record = read_record(workdir / recorder.FILE_NAME)
    console.print(final_table(record))
    lines = [f"report      {report}"]
    best = outcome.progress.best_step
    if outcome.reason == "early_stop":
        evals = run.config.loop.patience_evals
        lines.insert(
            0, f"stopped early at step {outcome.step}: {evals} evaluations without a better ratio"
        )
    if best == 0:
        lines.insert(0, "no evaluation was better than the model before training")
    if run.base.tuning.method != "full":
        lines.append(f"adapter     {_save_adapter(run, outcome)}")
    lines.append(f"checkpoint  {run.checkpoints.folder / str(outcome.step)}")
    console.print(*lines, sep="\n", highlight=False, soft_wrap=True)


def _save_adapter(run: loop.Run, outcome: loop.Outcome) -> str:
    """The adapter of the best step, as `mft export` would write it; returns where it lies."""
    folder = run.workdir / "adapter"
    with contextlib.closing(Checkpoints(run.workdir, read_only=True)) as checkpoints:
        step, trainable = checkpoints.chosen_step("best"), outcome.state.trainable
        if step != outcome.step:
            like = run.functions.state_shapes.trainable
            trainable = checkpoints.restore_trainable(step, like)
    model = TrainedModel(run.config, run.base, run.weights, trainable, step)
    save_run_adapter(folder, model, overwrite=True)
    return f"{folder} (step {step})"
