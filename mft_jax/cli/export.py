"""`mft export`: a trained run as a PEFT adapter or as a merged Hugging Face model."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich.console import Console

from mft_jax.cli import arguments as args
from mft_jax.run.console import open_console, read_progress, sayer
from mft_jax.run.export import FORMATS, export_run


def run(arguments: Sequence[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "the run's folder", flag_values=values)
    flags.DEFINE_enum(
        "format",
        None,
        FORMATS,
        "peft: the adapter; merged: the original weights plus the adapter; merged_dequantized: the "
        "quantised weights that it was trained on, made dense, plus the adapter",
        flag_values=values,
    )
    flags.DEFINE_string("output", None, "the folder to make", flag_values=values)
    flags.DEFINE_string(
        "checkpoint", "best", "which step: best (lowest validation ratio), last, or a number",
        flag_values=values,
    )  # fmt: skip
    args.parse("export", arguments, values)
    workdir = Path(args.required_flag(values, "workdir"))
    output = Path(args.required_flag(values, "output"))
    kind = args.required_flag(values, "format")
    which = args.required_flag(values, "checkpoint")
    export(workdir, output, kind, which, open_console())
    return 0


def export(workdir: Path, output: Path, kind: str, which: str, console: Console) -> None:
    """`export_run`, with what it did on the console."""
    say = sayer(console)
    exported = export_run(workdir, output, kind, which, say, read_progress(console))
    say(f"step {exported.step} -> {output}")
    if (gap := exported.difference) is not None:
        say(
            f"logits of the export against the trained model, on {exported.num_tokens} validation "
            f"tokens in float32: max |difference| {gap.max_abs:.3g}, mean {gap.mean_abs:.3g}, KL "
            f"{gap.kl:.3g} nats, same first choice {gap.top1_agreement:.2%}"
        )
