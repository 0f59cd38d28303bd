"""Runs that lost their way: what is noticed, and the ways out that its message names."""

import math

from mft_jax.types import MftError


class Diverged(MftError):
    """The numbers of a run are not finite, or far from where they were. The state is not saved.

    in_step  whether it is the loss or the gradient of one training step, which may be left out
    """

    def __init__(self, message: str, *, in_step: bool = False):
        super().__init__(message)
        self.in_step = in_step


def check_rise(step: int, loss: float, before: float | None, bound: float) -> None:
    """Raise `Diverged` where a state is too bad to be saved after a good one.

    `loss` and `before`: of the same validation samples, of this state and of the one saved last.
    """
    if math.isfinite(loss) and (before is None or loss - before <= bound):
        return
    since = "" if before is None else f", after {before:.3g} in the last good state"
    raise Diverged(
        f"step {step}: the state is not saved: a batch of the validation set has a loss of "
        f"{loss:.3g} nats per token{since} (loop.max_loss_rise={bound:g})"
    )


def ways_out(error: Diverged, newest: int | None, learning_rate: float, *, skips: bool) -> str:
    """What to do now; `newest` is the step of the last checkpoint, `skips` whether the run
    leaves out steps already."""
    lower = f"optim.learning_rate={learning_rate / 10:g}"
    if newest is None:
        return (
            "there is no checkpoint yet: look at the data, or start with a lower learning rate, in "
            f"a new --workdir and with --config.{lower}"
        )
    ways = [
        f"the same command with --resume_with={lower} and without --checkpoint continues from "
        f"checkpoint {newest}"
    ]
    if error.in_step and not skips:
        ways.append(
            "with --resume_with=loop.on_nonfinite=skip it continues, too, without the steps whose "
            "loss is not finite"
        )
    return f"nothing after checkpoint {newest} was saved; {'; '.join(ways)}"
