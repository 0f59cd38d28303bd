"""`mft train`: parse, resolve, call.

Exit codes: 0 after a run to its end or to early stopping; 75 after one that was interrupted and
which the same command continues; 2 after a mistake, which its message names.
"""

import sys
from collections.abc import Sequence

from absl import flags

from mft_jax import door
from mft_jax.cli import arguments as args
from mft_jax.run import changes
from mft_jax.run.interruption import CAN_GO_ON, stop_signals


def run(arguments: Sequence[str]) -> int:
    values = flags.FlagValues()
    args.config_flag(values, arguments)
    flags.DEFINE_string(
        "workdir", None, "the run's folder; a run that it holds is resumed", flag_values=values
    )
    flags.DEFINE_string(
        "checkpoint",
        "",
        "where to resume: a step, best or last; none begins anew and keeps what is there in "
        "set_aside; without it the newest that is as it was written",
        flag_values=values,
    )
    flags.DEFINE_string(
        "resume_with",
        "",
        f"settings that change from here on, such as {changes.EXAMPLE}",
        flag_values=values,
    )
    with stop_signals() as stop:
        try:
            args.parse("train", arguments, values)
            config, workdir = args.resolved(values), args.required_flag(values, "workdir")
            stop.within = config.loop.stop_within_seconds
            where = values["checkpoint"].value or ""
            wanted = changes.parse(values["resume_with"].value or "")
            ended = door.train(config, workdir, checkpoint=where, resume_with=wanted, stop=stop)
        except KeyboardInterrupt:
            again = "the same command" + " without --checkpoint" * bool(values["checkpoint"].value)
            print(f"mft train: interrupted; {again} continues", file=sys.stderr)
            return CAN_GO_ON
    return CAN_GO_ON if ended.reason == "interrupted" else 0
