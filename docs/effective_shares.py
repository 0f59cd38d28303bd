"""The share of each task in the loss, for tasks of very different frequency.

    python docs/effective_shares.py          prints the table and writes docs/effective_shares.svg

Three tasks make up 90 %, 9 % and 1 % of the samples. KDD Eq. 1 promises each of them a third of the
loss. The share of a task in one step is the slope of the loss along that task's mean nll; below it
is averaged over random steps of 128 rows, one sample a row, cut into micro-batches of m rows:

    microbatch   as MFTCoder's code does: every micro-batch divides by its own counts
    batch        the counts of the whole step
    dataset      the counts expected of a step

`microbatch` shows (.90, .09, .01) at 2 rows and below: nothing is balanced. `dataset` shows thirds
at any size. With `batch` a rare task has its share only in steps that contain it.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mft_jax.losses import Normalization, task_token_mean
from mft_jax.objective import ObjectiveSums
from mft_jax.types import TaskTable

FREQUENCIES = np.array([0.90, 0.09, 0.01])
TASKS = TaskTable(("90 %", "9 %", "1 %"))
MODES = ("microbatch", "batch", "dataset")
MICRO_BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
STEP_ROWS = 128
COLORS = ("#1f6f8b", "#e08e45", "#b23a48")


def effective_shares(
    normalization: str, micro_batch_rows: int, steps: int, step_rows: int = STEP_ROWS, seed: int = 0
) -> np.ndarray:
    """[3]: mean over random steps of d loss / d (mean nll of a task), for `task_token_mean`."""
    rng = np.random.default_rng(seed)
    tasks = rng.choice(3, (steps, step_rows), p=FREQUENCIES)
    tokens = rng.integers(20, 200, tasks.shape) * (tasks[None] == np.arange(3)[:, None, None])
    micro = tokens.reshape(3, steps, -1, micro_batch_rows).sum(axis=-1)
    counts_SAT = jnp.asarray(np.moveaxis(micro, 0, -1), float)
    expected = FREQUENCIES * step_rows * (20 + 199) / 2
    objective = task_token_mean(Normalization(len(TASKS), normalization, {"token": expected}))

    def shares(counts_AT: jax.Array) -> jax.Array:
        def loss(mean_nll_T: jax.Array) -> jax.Array:
            nll_AT = counts_AT * mean_nll_T[None]
            sums = ObjectiveSums(nll_AT, nll_AT[:, None])
            return objective.loss(sums, counts_AT, jnp.full(3, 1 / 3))

        return jax.grad(loss)(jnp.ones(3))

    return np.asarray(jax.jit(jax.vmap(shares))(counts_SAT).mean(axis=0))


def draw(table: dict[str, Sequence[np.ndarray]]) -> str:
    """One panel per normalization: share over micro-batch size, one line per task."""
    width, height, left, top = 250, 190, 46, 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {3 * width + left + 10} '
        f'{height + top + 52}" font-family="sans-serif" font-size="12" fill="#222">'
        '<rect width="100%" height="100%" fill="white"/>'
    ]
    for panel, (mode, rows) in enumerate(table.items()):
        x0, plot = left + panel * width, width - 34
        x = x0 + np.arange(len(rows)) * plot / (len(rows) - 1)
        parts.append(f'<text x="{x0}" y="20" font-size="14" font-weight="bold">{mode}</text>')
        for share in (0, 1 / 3, 2 / 3, 1):
            y = top + height * (1 - share)
            dash = ' stroke-dasharray="4 3"' if share == 1 / 3 else ""
            parts.append(f'<path d="M{x0} {y:.1f}h{plot}" stroke="#bbb"{dash}/>')
            if panel == 0:
                text = f"{share:.0%}"
                parts.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        for size, at in zip(MICRO_BATCH_ROWS, x, strict=True):
            label = f'<text x="{at:.1f}" y="{top + height + 18}" text-anchor="middle">{size}</text>'
            parts.append(label)
        for task, color in enumerate(COLORS):
            y = top + height * (1 - np.array([row[task] for row in rows]))
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2.5"/>'
            )
    y = top + height + 42
    parts.append(f'<text x="{left}" y="{y}">rows of a micro-batch; share of the task with</text>')
    for task, color in enumerate(COLORS):
        at = left + 290 + 140 * task
        parts.append(f'<path d="M{at} {y - 4}h22" stroke="{color}" stroke-width="2.5"/>')
        parts.append(f'<text x="{at + 28}" y="{y}">{TASKS.names[task]} of samples</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    table = {
        mode: [effective_shares(mode, rows, steps=2000) for rows in MICRO_BATCH_ROWS]
        for mode in MODES
    }
    print("rows  " + "  ".join(f"{mode:>17}" for mode in MODES))
    for index, rows in enumerate(MICRO_BATCH_ROWS):
        cells = (" ".join(f"{x:5.3f}" for x in table[mode][index]) for mode in MODES)
        print(f"{rows:4}  " + "  ".join(cells))
    path = Path(__file__).with_suffix(".svg")
    path.write_text(draw(table), encoding="utf-8")
    print(f"written: {path.name}")


if __name__ == "__main__":
    main()
