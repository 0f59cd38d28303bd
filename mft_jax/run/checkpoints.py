"""Orbax checkpoints: the train state, the data cursor and the run's progress, all or nothing.

    <workdir>/checkpoints/<step>/trainable   what is trained
                                /training    step, optimiser, balancer
                                /cursor      the loader's position
                                /progress    baseline and best validation, early stopping

The last two and the best one are kept. Writing is asynchronous; a step folder appears under its
name only when it is complete.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mft_jax.train_state import TrainState
from mft_jax.types import MftError, Params

FOLDER = "checkpoints"
# What orbax and tensorstore raise on a folder that lost files or bytes.
DAMAGE = (ValueError, KeyError, OSError, TypeError, AttributeError)


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


def has_checkpoint(workdir: Path) -> bool:
    """Whether there is a checkpoint, found without orbax, which would make the folder."""
    return any(step.name.isdecimal() for step in (workdir / FOLDER).glob("*"))


class Checkpoints:
    """One run's checkpoints. `save` returns at once; `close` waits for what is being written."""

    def __init__(self, workdir: Path, read_only: bool = False):
        self.folder = (workdir / FOLDER).absolute()
        self.policy = KeepLastAndBest()
        self.manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self.policy,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
                create=not read_only,
            ),
            item_names=("trainable", "training", "cursor", "progress"),
        )

    def latest_step(self) -> int | None:
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
        self.policy.best_step = progress.best_step
        self.manager.save(
            step,
            args=ocp.args.Composite(
                trainable=ocp.args.StandardSave(state.trainable),
                training=ocp.args.StandardSave(_training(state)),
                cursor=ocp.args.JsonSave(cursor),
                progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
            ),
        )

    def check_names(self, step: int, expected: Params) -> None:
        """Raise `MftError` where a checkpoint holds parameters under other paths than `expected`.

        No array is read. Version 0.1 stacked all layers of a model with mixed windows under one
        path.
        """
        folder = self.folder / str(step)
        with _named_damage(folder):
            handler: Any = ocp.PyTreeCheckpointHandler()  # it takes any kind of path
            saved = handler.metadata(folder / "trainable").tree
        if different := sorted(saved.keys() ^ expected.keys()):
            raise MftError(
                f"checkpoint {folder} was written by another version of mft_jax, which gives "
                f"parameters other names (names that differ: {len(different)}, such as "
                f"{different[0]!r}); resume with that version, or use a new --workdir"
            )

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
            raise MftError(
                f"checkpoint {self.folder / str(step)} holds the balancer state {kept}; expected "
                f"{balancer}; resume with the version of mft_jax that wrote it, or use a new "
                "--workdir"
            )
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
        with _named_damage(self.folder / str(step)):
            found = dict(self.manager.restore(step, args=ocp.args.Composite(**items)))
            if "progress" in found:
                found["progress"] = EvalProgress(**found["progress"])
            return found

    def close(self) -> None:
        self.manager.wait_until_finished()
        self.manager.close()


@contextlib.contextmanager
def _named_damage(folder: Path) -> Iterator[None]:
    """Raise what goes wrong while `folder` is read as an `MftError` that names it."""
    try:
        yield
    except BaseException as error:
        # Orbax raises a bare `Exception` where the bytes of an array cannot be read.
        if isinstance(error, DAMAGE) or type(error) is Exception:
            detail = (str(error).splitlines() or [""])[0][:200]
            raise MftError(
                f"checkpoint {folder} cannot be read: it is cut short, damaged or of another model "
                f"({type(error).__name__}: {detail}); delete that folder to continue from the "
                "checkpoint before it"
            ) from error
        raise


def _training(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state, "balancer": state.balancer}


def placed_shapes(shapes: Any, shardings: Any) -> Any:
    """Shapes, dtypes and shardings of the leaves, as a restore needs them."""

    def placed(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(placed, shapes, shardings)
