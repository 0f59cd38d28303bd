"""`mft check`: a checkpoint before it is trained: its tensors, its tokenizer, and its logits.

Tensors are judged by their headers, so this takes seconds and no memory for a model of any size.
Only the comparison with transformers reads weights, once by each side, in float32.
"""

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from mft_jax import finetune, sharding
from mft_jax.cli import arguments as args
from mft_jax.composition import count_parameters
from mft_jax.config import TrainConfig
from mft_jax.data.encoding import build_encoder, encode
from mft_jax.data.records import Conversation, Message
from mft_jax.data.templates import chat_form, render
from mft_jax.finetune import FinetuneConfig
from mft_jax.huggingface.adapter_import import read_adapter
from mft_jax.huggingface.checkpoint import checked_spans, hf_shape, model_folder, read_model
from mft_jax.huggingface.tensors import INDEX_FILE, Span, read_json, read_spans, weight_files
from mft_jax.huggingface.tokenizers import load_tokenizer
from mft_jax.loading import check_model
from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import Params, param_shapes
from mft_jax.models.families.base import Family
from mft_jax.types import MftError

Rows = list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is checked: a folder, and what its config.json says."""

    settings: TrainConfig
    folder: Path
    family: Family
    model: ModelConfig


def run(arguments: Sequence[str]) -> int:
    values = flags.FlagValues()
    args.config_flag(values, arguments)
    flags.DEFINE_bool(
        "headers_only", False, "do not read weights: no comparison", flag_values=values
    )
    flags.DEFINE_string("prompt", None, "the text to compare logits on", flag_values=values)
    args.parse("check", "is the checkpoint of --config what it should be", arguments, values)
    settings, console = args.resolved(values), Console(markup=False)
    if settings.model.weights == "random":
        raise MftError(
            "model.weights='random' trains from scratch, so there are no weights to check; set "
            "--config.model.weights=pretrained"
        )
    folder = model_folder(settings.model.path)
    subject = Subject(settings, folder, *read_model(folder))
    table, problems = overview(subject)
    console.print(table)
    if problems:
        raise MftError(f"{folder} cannot be trained as it is:\n" + "\n".join(problems))
    if values.headers_only:
        return 0
    from mft_jax.cli import check_logits  # placeholder

    return 0


def overview(subject: Subject) -> tuple[Table, list[str]]:
    """All that is known without reading a weight, and all that is wrong."""
    family, folder = subject.family, subject.folder
    rows: Rows = [
        ("family", f"{family.name}: {family.models}"),
        ("architecture", family.architecture),
        ("checked against", _reference(family)),
    ]
    rows += [("notes", family.notes)] if family.notes else []
    problems: list[str] = []

    @contextlib.contextmanager
    def part(name: str) -> Iterator[None]:
        try:
            yield
        except MftError as error:
            rows.append((name, "cannot be used, see below"))
            problems.append(str(error))

    with part("tensors"):
        rows += tensor_rows(all_spans(subject))
    with part("finetune"):
        rows += storage_rows(subject)
    with part("tokenizer"):
        rows += tokenizer_rows(folder, subject.model.vocab_size)
    table = Table(title=folder.name, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table, problems


def _reference(family: Family) -> str:
    if family.reference == "transformers":
        return "transformers"
    return "a forward pass in NumPy: transformers has no modelling file"
