"""Orbax checkpoints: the train state, the data cursor and the run's progress, all or nothing.

    <workdir>/checkpoints/<step>/trainable        what is trained
                                /training         step, optimiser, balancer
                                /cursor           the loader's position
                                /progress         baseline and best validation, early stopping
                                /checksums.json   see `proof`
    <workdir>/checkpoints.json                    the step of the newest one

The last two and the best one are kept. Writing is asynchronous; a step folder appears under its
name only when it is complete: its files, their checksums, and the record up to that step are on the
disk. A checkpoint is proven before it is read.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mft_jax.record.files import FULL, full_disk, sync_file, sync_folder
from mft_jax.record.schema import METRICS_FILE
from mft_jax.run import proof
from mft_jax.run.processes import is_first, on_first
from mft_jax.run.proof import State, Verdict
from mft_jax.run.saved import FOLDER, note_newest
from mft_jax.train_state import TrainState
from mft_jax.types import MftError, Params

UNFINISHED = ocp.path.step.TMP_DIR_SUFFIX  # ends a folder's name while it is written


@dataclasses.dataclass(frozen=True)
class EvalProgress:
    """What the loop remembers in addition to the train state. Losses are by task name.

    The best mean validation ratio starts with the model as it was given: 1 at step 0.
    """

    initial_losses: dict[str, float | None]
    best_ratio: float = 1.0
    best_step: int = 0
    evals_since_best: int = 0
    seconds: float = 0.0  # in the loop, over all sessions
    balancer: dict[str, Any] = dataclasses.field(default_factory=dict)  # whose state is kept
    skipped: int = 0  # steps whose loss or gradient was not finite
    saved_loss: float | None = None  # of a validation batch, of the state saved last

    def after(self, step: int, ratio: float) -> "EvalProgress":
        """With one more evaluation, of the mean validation ratio `ratio`."""
        if ratio < self.best_ratio:
            return dataclasses.replace(self, best_ratio=ratio, best_step=step, evals_since_best=0)
        return dataclasses.replace(self, evals_since_best=self.evals_since_best + 1)


class KeepLastAndBest(checkpoint_managers.PreservationPolicy):
    """The last two are kept, so that one damaged folder does not end a run, and the best so far."""

    def __init__(self):
        self.best_step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        kept = {self.best_step, *sorted(checkpoint.step for checkpoint in checkpoints)[-2:]}
        return [checkpoint.step in kept for checkpoint in checkpoints]


class Checkpoints:
    """One run's checkpoints. `save` returns at once; `close` waits for what is being written.

    proven  a step whose files have been compared with their checksums already
    """

    def __init__(self, workdir: Path, read_only: bool = False, proven: int | None = None):
        self.workdir = workdir
        self.folder = (workdir / FOLDER).absolute()
        self.policy = KeepLastAndBest()
        self.proven = {(proven, item) for item in proof.ITEMS}
        self.saving: int | None = None
        self.failed = False
        self.manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self.policy,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
                create=not read_only,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._complete),
            ),
            item_names=proof.ITEMS,
        )

    def latest_step(self) -> int | None:
        """Of those that are complete or being written."""
        return self.manager.latest_step()

    def chosen_step(self, which: str) -> int:
        """`best`, `last`, or a step's number. While none beats step 0 the last one is the best."""
        steps = sorted(self.manager.all_steps())
        if not steps:
            raise MftError(
                f"{self.folder} holds no checkpoint; train for at least one step (`mft train`)"
            )
        if which == "last":
            return steps[-1]
        if which == "best":
            best = self._read(steps[-1], progress=ocp.args.JsonRestore())["progress"].best_step
            return best if best in steps else steps[-1]
        if which.isdecimal() and int(which) in steps:
            return int(which)
        raise MftError(
            f"--checkpoint={which}: expected best, last or one of the steps kept in {self.folder}: "
            f"{', '.join(map(str, steps))}"
        )

    def save(self, step: int, state: TrainState, cursor: Any, progress: EvalProgress) -> None:
        """Begin to write a checkpoint. Raises `MftError` where the one before could not be."""
        self._finish()
        self.policy.best_step = progress.best_step
        self.saving = step
        with self._writing():
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    trainable=ocp.args.StandardSave(state.trainable),
                    training=ocp.args.StandardSave(_training(state)),
                    cursor=ocp.args.JsonSave(cursor),
                    progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
                ),
                custom_metadata=proof.PROMISE,
            )

    def _complete(self) -> None:
        """Orbax calls it on the first process: all is written, the folder has no name yet."""
        record = self.workdir / METRICS_FILE
        if record.exists():
            sync_file(record)
        proof.write_proof(self.folder / f"{self.saving}{UNFINISHED}")

    def _finish(self) -> None:
        """Wait for what is being written, and note it as the newest."""
        if self.saving is None:
            return
        with self._writing():
            self.manager.wait_until_finished()
            if is_first():
                sync_folder(self.folder)
                note_newest(self.workdir, self.saving)
        self.saving = None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Raise what goes wrong as an `MftError` that says which checkpoint is not there."""
        try:
            yield
        except BaseException as error:
            self.failed, target = True, self.folder / str(self.saving)
            if is_first():
                shutil.rmtree(f"{target}{UNFINISHED}", ignore_errors=True)
            if isinstance(error, Exception) and not isinstance(error, MftError):
                raise MftError(_unwritten(target, error)) from error
            raise

    def prove(self, step: int, items: Sequence[str] = proof.ITEMS) -> None:
        """Raise `MftError` unless these items are as they were written. All processes call it."""
        items = [item for item in items if (step, item) not in self.proven]
        if items:
            folder = self.folder / str(step)
            others = [other for other in self.manager.all_steps() if other != step]
            on_first(f"use {folder}", lambda: proof.require(proof.examine(folder, items), others))
            self.proven |= {(step, item) for item in items}

    def restore(
        self, step: int, like: TrainState, balancer: dict[str, Any], resized: bool = False
    ) -> tuple[TrainState, Any, EvalProgress]:
        """`like` holds shapes, dtypes and shardings; `balancer` says whose state is expected: its
        name, the version of its state, and the tasks in their order. A failed restore is fatal.

        `resized`: the number of steps was changed since; a balancer's history of all steps, which
        begins as zeros, is then cut or filled up with zeros.
        """
        kept = self._read(step, progress=ocp.args.JsonRestore())["progress"].balancer
        if kept != balancer:
            other = f"it holds the balancer state {kept}; expected {balancer}"
            raise MftError(Verdict(self.folder / str(step), State.OTHER, other).text)
        items = self._read(
            step,
            trainable=ocp.args.StandardRestore(like.trainable),
            training=ocp.args.StandardRestore(_training(like), strict=not resized),
            cursor=ocp.args.JsonRestore(),
            progress=ocp.args.JsonRestore(),
        )
        state = TrainState(trainable=items["trainable"], **items["training"])
        return state, items["cursor"], items["progress"]

    def restore_trainable(self, step: int, like: Params) -> Params:
        """Only the trained parameters."""
        return self._read(step, trainable=ocp.args.StandardRestore(like))["trainable"]

    def _read(self, step: int, **items: Any) -> Any:
        self.prove(step, list(items))
        with _named_failure(self.folder / str(step)):
            found = dict(self.manager.restore(step, args=ocp.args.Composite(**items)))
        if "progress" in found:
            found["progress"] = self._progress(step, found["progress"])
        return found

    def _progress(self, step: int, saved: dict[str, Any]) -> EvalProgress:
        fields = {field.name for field in dataclasses.fields(EvalProgress)}
        if unknown := sorted(saved.keys() - fields):
            newer = f"its progress holds {', '.join(unknown)}, which this version does not know"
            raise MftError(Verdict(self.folder / str(step), State.NEWER, newer).text)
        return EvalProgress(**saved)

    def close(self) -> None:
        try:
            self._finish()
        finally:
            # The manager would raise a failed save again, and keep its own threads from ending.
            if not self.failed:
                self.manager.close()


def check_names(folder: Path, expected: Params) -> None:
    """Raise `MftError` where a checkpoint holds parameters under other paths than `expected`.

    No array is read. Version 0.1 stacked all layers of a model with mixed windows under one path.
    """
    with _named_failure(folder):
        handler: Any = ocp.PyTreeCheckpointHandler()  # it takes any kind of path
        saved = handler.metadata(folder / "trainable").tree
    if different := sorted(saved.keys() ^ expected.keys()):
        other = (
            f"it gives parameters other names (names that differ: {len(different)}, such as "
            f"{different[0]!r})"
        )
        raise MftError(Verdict(folder, State.OTHER, other).text)


@contextlib.contextmanager
def _named_failure(folder: Path) -> Iterator[None]:
    """Raise what goes wrong while `folder`, which is proven, is read as an `MftError`."""
    try:
        yield
    except BaseException as error:
        # Orbax raises anything, a bare `Exception` too, where the bytes of an array cannot be read.
        if isinstance(error, Exception) and not isinstance(error, MftError):
            raise MftError(Verdict(folder, State.UNREADABLE, _cause(folder, error)).text) from error
        raise


def _cause(folder: Path, error: Exception) -> str:
    if (folder / proof.FILE).exists():
        return (
            f"{_first_line(error)}; all files are as they were written, so another process may "
            "have ended, memory may have run out, or it is of another model or version"
        )
    return (
        f"{_first_line(error)}; it has no checksums, so nobody can say whether it is damaged, of "
        "another model or version, or whether another process has ended"
    )


def _unwritten(target: Path, error: Exception) -> str:
    # A full disk comes as an `OSError`, or in the words of the library that wrote.
    if getattr(error, "errno", None) in FULL or "No space left" in str(error):
        return f"checkpoint {full_disk(target)}"
    return (
        f"checkpoint {target} could not be written ({_first_line(error)}); those before it are "
        "whole: start again when the cause is mended"
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _training(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state, "balancer": state.balancer}


def placed_shapes(shapes: Any, shardings: Any) -> Any:
    """Shapes, dtypes and shardings of the leaves, as a restore needs them."""

    def placed(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(placed, shapes, shardings)
