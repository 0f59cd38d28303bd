"""Orbax checkpoints: the train state, the data cursor and the run's memory, all or nothing.

    <workdir>/checkpoints/<step>/state     params, optimiser, balancer
                                /cursor    where the loader stands
                                /progress  baseline and best validation, early stopping

The last two and the best one are kept. Writing is asynchronous; a step folder appears under its
name only when it is complete.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mft_jax.train_state import TrainState
from mft_jax.types import MftError


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the loop remembers beside the state. Losses and ratios are by task name."""

    initial_losses: dict[str, float | None]
    best_ratio: float | None = None
    best_step: int = 0
    evals_since_best: int = 0

    def after(self, step: int, ratio: float) -> "Progress":
        """With one more evaluation, of the mean validation ratio `ratio`."""
        if self.best_ratio is None or ratio < self.best_ratio:
            return dataclasses.replace(
                self, best_ratio=ratio, best_step=step, evals_since_best=0
            )
        return dataclasses.replace(self, evals_since_best=self.evals_since_best + 1)


class Checkpoints:
    """One run's checkpoints. `save` returns at once; `close` waits for what is being written."""

    def __init__(self, workdir: Path):
        self.folder = (workdir / "checkpoints").absolute()
        keep = [checkpoint_managers.LatestN(2), checkpoint_managers.BestN(
            get_metric_fn=lambda metrics: metrics["ratio"], reverse=True, n=1,
            keep_checkpoints_without_metrics=False,
        )]  # fmt: skip
        self.manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
                enable_async_checkpointing=True,
            ),
            item_names=("state", "cursor", "progress"),
        )

    def latest_step(self) -> int | None:
        return self.manager.latest_step()

    def save(self, step: int, state: TrainState, cursor: Any, progress: Progress, ratio: float | None):
        """`ratio`: this step's mean validation ratio where it was measured; ranks 'best'."""
        if step in self.manager.all_steps():
            return
        self.manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                cursor=ocp.args.JsonSave(cursor),
                progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
            ),
            metrics=None if ratio is None else {"ratio": ratio},
        )

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, Any, Progress]:
        """`like` holds shapes, dtypes and shardings. A failed restore is fatal (DESIGN 3.9)."""
        try:
            items = self.manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(like),
                    cursor=ocp.args.JsonRestore(),
                    progress=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError, OSError, TypeError, json.JSONDecodeError) as error:
            raise MftError(
                f"checkpoint {self.folder / str(step)} cannot be read, it is cut short or damaged "
                f"({type(error).__name__}: {str(error).splitlines()[0][:200]}); delete that folder "
                "to continue from the checkpoint before it"
            ) from error
        return items["state"], items["cursor"], Progress(**items["progress"])

    def close(self) -> None:
        self.manager.wait_until_finished()
        self.manager.close()


def abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings of placed arrays."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )


def write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
