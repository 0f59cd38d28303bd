"""Orbax checkpoints: the train state, the data cursor and the run's memory, all or nothing.

    <workdir>/checkpoints/<step>/trainable   what is trained
                                /training    step, optimiser, balancer
                                /cursor      where the loader stands
                                /progress    baseline and best validation, early stopping

The last two and the best one are kept. Writing is asynchronous; a step folder appears under its
name only when it is complete.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from mft_jax.models.decoder import Params
from mft_jax.train_state import TrainState
from mft_jax.types import MftError

# What orbax and tensorstore raise on a folder that lost files or bytes.
DAMAGE = (ValueError, KeyError, OSError, TypeError, AttributeError)


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the loop remembers beside the state. Losses are by task name."""

    initial_losses: dict[str, float | None]
    best_ratio: float | None = None
    best_step: int = 0
    evals_since_best: int = 0

    def after(self, step: int, ratio: float) -> "Progress":
        """With one more evaluation, of the mean validation ratio `ratio`."""
        if self.best_ratio is None or ratio < self.best_ratio:
            return dataclasses.replace(self, best_ratio=ratio, best_step=step, evals_since_best=0)
        return dataclasses.replace(self, evals_since_best=self.evals_since_best + 1)


class Checkpoints:
    """One run's checkpoints. `save` returns at once; `close` waits for what is being written."""

    def __init__(self, workdir: Path, read_only: bool = False):
        self.folder = (workdir / "checkpoints").absolute()
        best = BestN(get_metric_fn=lambda metrics: metrics["ratio"], reverse=True, n=1)
        self.manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=lambda metrics: metrics["ratio"],
                best_mode="min",
                preservation_policy=AnyPreservationPolicy([LatestN(2), best]),
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
                create=not read_only,
            ),
            item_names=("trainable", "training", "cursor", "progress"),
        )

    def latest_step(self) -> int | None:
        return self.manager.latest_step()

    def chosen_step(self, which: str) -> int:
        """`best`, `last`, or a step's number. Without an evaluation the last one is the best."""
        steps = sorted(self.manager.all_steps())
        if not steps:
            raise MftError(
                f"{self.folder} holds no checkpoint; train for at least one step (`mft train`)"
            )
        if which == "last":
            return steps[-1]
        if which == "best":
            best = self.manager.best_step()
            return steps[-1] if best is None else best
        if which.isdecimal() and int(which) in steps:
            return int(which)
        raise MftError(
            f"--checkpoint={which}: expected best, last or one of the steps kept in {self.folder}: "
            f"{', '.join(map(str, steps))}"
        )

    def save(
        self, step: int, state: TrainState, cursor: Any, progress: Progress, ratio: float | None
    ) -> None:
        """`ratio`: this step's mean validation ratio where it was measured; it ranks 'best'."""
        self.manager.save(
            step,
            args=ocp.args.Composite(
                trainable=ocp.args.StandardSave(state.trainable),
                training=ocp.args.StandardSave(_training(state)),
                cursor=ocp.args.JsonSave(cursor),
                progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
            ),
            metrics=None if ratio is None else {"ratio": ratio},
        )

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, Any, Progress]:
        """`like` holds shapes, dtypes and shardings. A failed restore is fatal (DESIGN 3.9)."""
        items = self._read(
            step,
            trainable=ocp.args.StandardRestore(like.trainable),
            training=ocp.args.StandardRestore(_training(like)),
            cursor=ocp.args.JsonRestore(),
            progress=ocp.args.JsonRestore(),
        )
        state = TrainState(trainable=items["trainable"], **items["training"])
        return state, items["cursor"], Progress(**items["progress"])

    def restore_trainable(self, step: int, like: Params) -> Params:
        """The trained parameters alone."""
        return self._read(step, trainable=ocp.args.StandardRestore(like))["trainable"]

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self.manager.restore(step, args=ocp.args.Composite(**items))
        except DAMAGE as error:
            detail = (str(error).splitlines() or [""])[0][:200]
            raise MftError(
                f"checkpoint {self.folder / str(step)} cannot be read: it is cut short, damaged or "
                f"of another model ({type(error).__name__}: {detail}); delete that folder to "
                "continue from the checkpoint before it"
            ) from error

    def close(self) -> None:
        self.manager.wait_until_finished()
        self.manager.close()


def _training(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state, "balancer": state.balancer}


def abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings of placed arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
