"""`mft export`: a trained run as a PEFT adapter or as a merged Hugging Face model."""

from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from rich.console import Console

from mft_jax.cli import arguments as args
from mft_jax.data.templates import chat_tokenizer, stop_token
from mft_jax.finetune.combine import combine
from mft_jax.finetune.merge import TrainedWeights
from mft_jax.huggingface.adapter_export import save_adapter
from mft_jax.huggingface.base_weights import load_params
from mft_jax.huggingface.export import save_merged
from mft_jax.huggingface.logit_difference import logit_difference
from mft_jax.huggingface.output import check_free
from mft_jax.huggingface.tokenizers import load_tokenizer
from mft_jax.models.params import param_infos
from mft_jax.run.base_model import Model, load_model, prepare
from mft_jax.run.checkpoints import Checkpoints, abstract
from mft_jax.run.folder import check_base, read_config, read_sample, saved_tuning
from mft_jax.sharding import MeshConfig, leaf_shardings, make_mesh
from mft_jax.types import MftError, Params

FORMATS = ("peft", "merged", "merged_dequantized")


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
    args.parse("export", "write an adapter or a merged model", arguments, values)
    workdir = Path(args.required_flag(values, "workdir"))
    output = Path(args.required_flag(values, "output"))
    kind = args.required_flag(values, "format")
    which = args.required_flag(values, "checkpoint")
    export(workdir, output, kind, which, Console(markup=False))
    return 0


def export(workdir: Path, output: Path, kind: str, which: str, console: Console) -> None:
    check_free(output)
    config = read_config(workdir)
    if kind == "merged_dequantized" and config.finetune.stored is None:
        raise MftError(
            f"--format={kind} needs a quantised base, but the run's method is "
            f"{config.finetune.method!r} with quantization {config.finetune.quantization!r}; use "
            "--format=merged"
        )
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    checkpoints = Checkpoints(workdir, read_only=True)
    step = checkpoints.chosen_step(which)
    prepared = prepare(config, console, saved_tuning(workdir))
    check_base(workdir, prepared)
    model = load_model(config, prepared, mesh, console)
    trainable = checkpoints.restore_trainable(step, abstract(model.trainable))
    checkpoints.close()
    parts = {
        "trained": TrainedWeights(model.finetune, trainable, model.start, model.frozen),
        "family": model.family,
        "model_config": model.config,
    }
    if kind == "peft":
        save_adapter(output, base_model=model.name, **parts)
    else:
        tokenizer = load_tokenizer(model.folder, model.config.vocab_size)
        stop = tokenizer.get_vocab()[stop_token(chat_tokenizer(tokenizer))]
        save_merged(
            output,
            base_folder=model.folder,
            dequantized=kind == "merged_dequantized",
            stop_ids=(stop,),
            **parts,
        )
    console.print(f"step {step} -> {output}", highlight=False, soft_wrap=True)
    if kind != "peft":
        infos = param_infos(model.config)
        trained = combine(model.finetune, infos, trainable, model.frozen, "float32")
        report_difference(workdir, output, model, trained, console)


def report_difference(
    workdir: Path, output: Path, model: Model, trained: Params, console: Console
) -> None:
    """Read the exported folder back and compare its logits with those of the trained model."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    merged = load_params(
        output,
        model.family,
        model.config,
        store_weight=lambda info, weight: weight.astype("float32"),
        shardings=lambda info, leaf: leaf_shardings(mesh, info, leaf),
    )
    batch = read_sample(workdir)
    gap = logit_difference(model.config, trained, merged, batch)
    console.print(
        f"logits of the export against the trained model, on {int((batch.segment_ids > 0).sum())} "
        f"validation tokens in float32: max |difference| {gap.max_abs:.3g}, mean "
        f"{gap.mean_abs:.3g}, KL {gap.kl:.3g} nats, same first choice {gap.top1_agreement:.2%}",
        highlight=False,
        soft_wrap=True,
    )
