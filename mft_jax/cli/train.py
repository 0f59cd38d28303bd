"""`mft train`: parse, resolve, call."""

from collections.abc import Sequence

from absl import flags

from mft_jax import door
from mft_jax.cli import arguments as args


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
    args.parse("train", arguments, values)
    workdir = args.required_flag(values, "workdir")
    door.train(args.resolved(values), workdir, checkpoint=values["checkpoint"].value)
    return 0
