"""A trained run as a PEFT adapter or as a merged Hugging Face model."""

import dataclasses
import functools
from pathlib import Path
from typing import Literal, get_args

import jax
import numpy as np

from mft_jax.data.builtin_template import builtin_template
from mft_jax.data.templates import chat_tokenizer, stop_token
from mft_jax.huggingface.adapter_export import save_adapter
from mft_jax.huggingface.base_weights import load_params
from mft_jax.huggingface.companions import Companions
from mft_jax.huggingface.export import save_merged
from mft_jax.huggingface.logit_difference import LogitDifference, logit_difference
from mft_jax.huggingface.output import check_free
from mft_jax.huggingface.tokenizers import load_tokenizer
from mft_jax.record.reading import read_record
from mft_jax.record.schema import METRICS_FILE
from mft_jax.run.console import ReadProgress, Say, no_progress, quiet
from mft_jax.run.folder import read_changes, read_config, read_sample
from mft_jax.run.model_card import CardFacts, model_card
from mft_jax.run.processes import on_first
from mft_jax.run.restore import TrainedModel, restore
from mft_jax.sharding import MeshConfig, leaf_shardings, make_mesh
from mft_jax.types import MftError

Format = Literal["peft", "merged", "merged_dequantized"]
FORMATS: tuple[str, ...] = get_args(Format)


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written: where, of which step, and for a merged model how far its logits are from
    the trained model's, in float32 over `num_tokens` validation tokens."""

    folder: Path
    step: int
    difference: LogitDifference | None = None
    num_tokens: int = 0


def export_run(
    workdir: Path,
    output: Path,
    format: str,
    which: str | int = "best",
    say: Say = quiet,
    progress: ReadProgress = no_progress,
) -> Exported:
    """Write the folder `output`, which must be free. Raises `MftError`.

    peft                the adapter
    merged              the original weights plus the adapter
    merged_dequantized  the quantised weights that it was trained on, made dense, plus the adapter
    """
    if format not in FORMATS:
        raise MftError(f"format={format!r}: expected one of {', '.join(FORMATS)}")
    check_free(output)
    tuning = read_config(workdir).finetune
    if format == "merged_dequantized" and tuning.stored is None:
        raise MftError(
            f"--format={format} needs a quantised base, but the run's method is "
            f"{tuning.method!r} with quantization {tuning.quantization!r}; use --format=merged"
        )
    model = restore(workdir, which, make_mesh(MeshConfig(), jax.devices()[:1]), say, progress)
    if format == "peft":
        save_run_adapter(workdir, output, model, say)
        return Exported(output, model.step)
    _save_merged(workdir, output, model, format, say)
    return _compared(workdir, output, model)


def save_run_adapter(
    workdir: Path, output: Path, model: TrainedModel, say: Say = quiet, overwrite: bool = False
) -> None:
    """All processes must call it; the first writes."""
    save_adapter(
        output,
        trained=model.trained,
        family=model.base.family,
        model_config=model.base.model_config,
        base_model=model.base.name,
        companions=on_first("describe it", lambda: companions(workdir, model, "peft", say)),
        overwrite=overwrite,
    )


def companions(workdir: Path, model: TrainedModel, format: str, say: Say) -> Companions:
    """The files beside the weights: how to talk to the model, and what it is."""
    base = model.base
    tokenizer = load_tokenizer(base.folder, base.model_config.vocab_size)
    chat = chat_tokenizer(tokenizer)
    vocabulary = tokenizer.get_vocab()
    # A chat ends at the template's token, plain text at the tokenizer's.
    stop_ids = tuple(dict.fromkeys(vocabulary[token] for token in (stop_token(chat), chat.eos)))
    try:
        record = read_record(workdir / METRICS_FILE)
    except MftError as error:
        say(f"note: the model card has no losses: {error}")
        record = None
    changes = read_changes(workdir)
    facts = CardFacts(model.config, base, model.step, format, chat, stop_ids, record, changes)
    template = "" if tokenizer.chat_template else builtin_template(chat.eos)
    return Companions(base.folder, chat.eos, template, stop_ids, model_card(facts))


def _save_merged(workdir: Path, output: Path, model: TrainedModel, format: str, say: Say) -> None:
    base = model.base
    save_merged(
        output,
        base_folder=base.folder,
        trained=model.trained,
        family=base.family,
        model_config=base.model_config,
        dequantized=format == "merged_dequantized",
        companions=companions(workdir, model, format, say),
    )


def _compared(workdir: Path, output: Path, model: TrainedModel) -> Exported:
    """Read the exported folder back and compare its logits with those of the trained model."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    merged = load_params(
        output,
        model.base.family,
        model.base.model_config,
        store_weight=lambda info, weight: weight.astype("float32"),
        shardings=functools.partial(leaf_shardings, mesh),
    )
    batch = read_sample(workdir)
    gap = logit_difference(model.base.model_config, model.params("float32"), merged, batch)
    return Exported(output, model.step, gap, int(np.count_nonzero(batch.segment_ids)))
