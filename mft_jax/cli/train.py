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
    args.parse("train", arguments, values)
    door.train(args.resolved(values), args.required_flag(values, "workdir"))
    return 0
