"""Whose loss is not finite: in a packed row one sample makes those of its row-mates so, too."""

from collections.abc import Callable

import jax
import numpy as np

from mft_jax.types import TaskSums


def without_row_mates(sums: TaskSums, own_nll: Callable[[int], jax.Array]) -> TaskSums:
    """`sums` (NumPy), where one that is not finite is replaced by `own_nll(task)`: that of the
    task's samples without the others of their rows. What is not finite then is the task's own.
    """
    suspects = np.flatnonzero(~np.isfinite(sums.sum))
    if not len(suspects):
        return sums
    own = np.array(sums.sum)
    own[suspects] = [float(own_nll(int(task))) for task in suspects]
    return TaskSums(own, sums.count)
