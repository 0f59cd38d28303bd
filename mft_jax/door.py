"""The door for Python and notebooks; the commands go through it, too.

import mft_jax as mft

config = mft.default_config()
config.data.tasks = [{"name": "docs", "path": "docs.jsonl"}]
run = mft.train(config, "runs/first")
run.report()
"""

import contextlib
import dataclasses
import html
import importlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict
from rich.console import Console

from mft_jax.config import TrainConfig, default, resolve, with_absolute_paths
from mft_jax.huggingface.companions import CARD_FILE
from mft_jax.record.reading import RunRecord, read_record
from mft_jax.record.schema import METRICS_FILE
from mft_jax.record.verdict import Verdict, verdict
from mft_jax.report.page import write_report
from mft_jax.run import out_of_memory, session
from mft_jax.run.checkpoints import Checkpoints
from mft_jax.run.compiled import keep_compiled
from mft_jax.run.console import Say, open_console
from mft_jax.run.display import Display
from mft_jax.run.ending import ending, what_is_handed_out
from mft_jax.run.export import Exported, export_run, save_run_adapter
from mft_jax.run.folder import read_config
from mft_jax.run.interruption import StopSignals
from mft_jax.run.processes import is_first, on_first
from mft_jax.run.trained import Trained
from mft_jax.types import MftError, check_local


def default_config() -> Any:
    """All settings with their defaults, to be changed and given to `train`."""
    return default()


@dataclasses.dataclass(frozen=True)
class Report:
    """A run's page; a notebook shows it in place."""

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        page = html.escape(self.path.read_text("utf-8"), quote=True)
        frame = 'width="100%" height="900" style="border: 0"'
        return f'<iframe srcdoc="{page}" {frame}></iframe>'


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows by column name: one for each task of each step."""

    rows: tuple[dict[str, Any], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`. Raises `MftError` where pandas is not installed."""
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise MftError(
                f"to_pandas() needs pandas ({error}); install it (pip install pandas), or use the "
                "rows as they are"
            ) from error
        return pandas.DataFrame(list(self.rows))


@dataclasses.dataclass(frozen=True)
class Run:
    """A run by its folder: nothing is kept open, and nothing is read before it is asked for."""

    workdir: Path

    @property
    def config(self) -> TrainConfig:
        """The settings that it was last started with."""
        return read_config(self.workdir)

    @property
    def verdict(self) -> Verdict:
        """What became of it, in words: of the run (`word`) and of every task by name (`tasks`)."""
        return verdict(read_record(self.workdir / METRICS_FILE))

    @property
    def reason(self) -> str | None:
        """Why it ended: finished, early_stop or interrupted; None while it runs, or if killed."""
        file = self.workdir / METRICS_FILE
        end = read_record(file).end if file.is_file() else None
        return None if end is None else end.reason

    def record(self) -> Table:
        """One row for each task of each step: loss (nats per trained token), weight and tokens of
        the step that started there, and the validation loss where it was measured before it.

        None where a task is absent from a step, or nothing was measured.
        """
        return Table(tuple(_rows(read_record(self.workdir / METRICS_FILE))))

    def report(self) -> Report:
        """Write `report.html`; a notebook shows it where this is a cell's last expression."""
        return Report(write_report(self.workdir))


def _rows(record: RunRecord) -> Iterator[dict[str, Any]]:
    train, valid = record.train, record.valid
    columns = {
        "train_loss": (train.step, train.task["train_loss"]),
        "weight": (train.step, train.task["weight"]),
        "tokens": (train.step, train.task["tokens"]),
        "valid_loss": (valid.step, valid.task["loss"]),
        "valid_ratio": (valid.step, valid.task["ratio"]),
    }
    by_step: dict[str, dict[int, Any]] = {
        name: dict(zip(steps.tolist(), values.tolist(), strict=True))
        for name, (steps, values) in columns.items()
    }
    for step in sorted({step for column in by_step.values() for step in column}):
        for index, task in enumerate(record.header.tasks):
            cells = {name: column.get(step) for name, column in by_step.items()}
            numbers = {name: row and row[index] for name, row in cells.items()}
            # NaN is the record's word for an absent task.
            known = {name: x if x == x else None for name, x in numbers.items()}
            yield {"step": step, "task": task, **known}


def train(
    config: TrainConfig | ConfigDict | Mapping[str, Any],
    workdir: str | os.PathLike[str],
    console: Console | None = None,
    *,
    checkpoint: str | int = "",
    resume_with: Mapping[str, Any] | None = None,
    stop: StopSignals | None = None,
) -> Run:
    """Train, or resume the run that `workdir` holds; then write its adapter and its report.

    `resume_with` changes settings of a run on its way: `{"optim.learning_rate": 1e-4}`, or more
    `loop.steps` for one that has finished. `stop`: the signals, for a caller that takes them.

    Ctrl-C saves after the current step and returns; the same call resumes. Before the first step
    there is nothing to save, and `KeyboardInterrupt` is raised. Raises `MftError`. With several
    processes all must call it.

    `checkpoint`: where to resume: a step, "best" or "last"; "none" begins anew and keeps what is
    there under `set_aside`. Without it: the newest one that is as it was written.
    """
    settings = config if isinstance(config, TrainConfig) else resolve(config)
    settings, folder = with_absolute_paths(settings), _folder(workdir)
    display = _display(console)
    again = "the same command" + " without --checkpoint" * bool(checkpoint)
    with out_of_memory.explained(lambda: out_of_memory.training_remedy(settings)):
        trained = session.train(settings, folder, display, str(checkpoint), resume_with, stop)
        _conclude(trained, display, again)
    return Run(folder)


def _folder(workdir: str | os.PathLike[str]) -> Path:
    """The run's folder, whatever the current folder will be."""
    if not os.fspath(workdir):
        raise MftError("the workdir is empty; expected the name of a folder for the run")
    check_local("workdir", os.fspath(workdir))
    return Path(workdir).expanduser().absolute()


def _display(console: Console | None) -> Display:
    """Where a call shows what it does. Orbax's own lines are not shown: they are warnings of its
    defaults, and errors that it also raises."""
    logging.set_verbosity(logging.FATAL)
    display = Display(console or open_console())
    keep_compiled(display.say)
    return display


def open_run(workdir: str | os.PathLike[str]) -> Run:
    """The run that `workdir` holds. Raises `MftError` where it holds none."""
    folder = _folder(workdir)
    read_config(folder)
    return Run(folder)


def export(
    run: Run | str | os.PathLike[str],
    *,
    format: str,
    output: str | os.PathLike[str],
    checkpoint: str | int = "best",
    console: Console | None = None,
) -> Exported:
    """Write a run as "peft" (adapter), "merged" or "merged_dequantized" into the folder `output`.

    `checkpoint`: "best" (lowest validation ratio), "last", or a step. Raises `MftError`.
    """
    workdir = run.workdir if isinstance(run, Run) else _folder(run)
    check_local("output", os.fspath(output))
    display, folder = _display(console), Path(output).expanduser()
    say = display.say
    with out_of_memory.explained(out_of_memory.export_remedy):
        exported = export_run(workdir, folder, format, checkpoint, say, display.progress)
    say(f"step {exported.step} -> {folder}")
    say(f"how to load it and talk to it: {folder / CARD_FILE}")
    if note := what_is_handed_out(workdir, exported.step):
        say(f"note: {note}")
    if (gap := exported.difference) is not None:
        say(
            f"logits of the export against the trained model, on {exported.num_tokens} validation "
            f"tokens in float32: max |difference| {gap.max_abs:.3g}, mean {gap.mean_abs:.3g}, KL "
            f"{gap.kl:.3g} nats, same first choice {gap.top1_agreement:.2%}"
        )
    return exported


def _conclude(trained: Trained, display: Display, again: str) -> None:
    """Write the report and the adapter, and say where everything is. All processes must call it.

    `again`: what resumes an interrupted run, in words.
    """
    workdir, say = trained.workdir, display.say
    report = on_first("write the report", lambda: write_report(workdir))
    files, adapter_step = [f"report      {report}"], None
    if trained.reason == "interrupted":
        saved = f"and saved at step {trained.step}" if trained.step else "before the first step"
        say(f"interrupted {saved}; {again} resumes it")
    else:
        if trained.base.tuning.method != "full":
            folder, adapter_step = _save_adapter(trained, say)
            files.append(f"adapter     {folder} (step {adapter_step})")
        files.append(f"checkpoint  {trained.checkpoints / str(trained.step)}")
    if not is_first():
        return
    record = read_record(workdir / METRICS_FILE)
    if trained.reason != "interrupted":
        display.final(record)
    if trained.reason == "early_stop":
        say(_stopped_early(trained.step, trained.config.loop.patience_evals))
    say(ending(record, workdir, files, adapter_step, time.monotonic() - display.start_up.began))


def _stopped_early(step: int, evals: int) -> str:
    """
    >>> _stopped_early(20, 1)
    'stopped early at step 20: 1 evaluation without a better ratio'
    >>> _stopped_early(20, 2)
    'stopped early at step 20: 2 evaluations without a better ratio'
    """
    several = f"{evals} evaluation{'s' * (evals != 1)}"
    return f"stopped early at step {step}: {several} without a better ratio"


def _save_adapter(trained: Trained, say: Say) -> tuple[Path, int]:
    """Write the adapter of the best step, as `export` does. Returns its folder and the step."""
    folder = trained.workdir / "adapter"
    with contextlib.closing(Checkpoints(trained.workdir, read_only=True)) as checkpoints:
        step, trainable = checkpoints.chosen_step("best"), trained.state.trainable
        if step != trained.step:
            try:
                trainable = checkpoints.restore_trainable(step, trained.trainable_shapes)
            except MftError as error:
                say(f"{error}\nit was the best one; the adapter is of the last step instead")
                step = trained.step
    save_run_adapter(trained.workdir, folder, trained.model(trainable, step), say, overwrite=True)
    return folder, step
