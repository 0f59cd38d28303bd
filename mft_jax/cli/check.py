"""`mft check`: a checkpoint before it is trained: its tensors, its tokenizer, and its logits.

Tensors are judged by their headers, in seconds and without memory for a model of any size. Only
the comparison with transformers reads weights, once for each side, in float32.
"""

import dataclasses
import functools
import importlib.util
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Float, Int
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from mft_jax import sharding
from mft_jax.arrays import over_stack
from mft_jax.cli import arguments as args
from mft_jax.config import TrainConfig
from mft_jax.data.chats import Message
from mft_jax.data.encoding import build_encoder, encode
from mft_jax.data.samples import Conversation
from mft_jax.data.templates import chat_tokenizer, render
from mft_jax.finetune.attach import store_weight
from mft_jax.finetune.combine import count_parameters
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.huggingface import base_weights
from mft_jax.huggingface.folders import model_folder
from mft_jax.huggingface.logit_difference import compare_logits
from mft_jax.huggingface.tensors import Span
from mft_jax.huggingface.tokenizers import load_tokenizer
from mft_jax.models.attention_backends import Choice, choose
from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import bind
from mft_jax.models.families.base import Family
from mft_jax.models.params import param_infos
from mft_jax.run.base_model import describe
from mft_jax.run.console import VisibleConsole, quiet, read_progress
from mft_jax.types import FOREIGN_CODE_ERRORS, MftError, Params

Rows = list[tuple[str, str]]
Tokens = Int[np.ndarray, " L"]
Logits = Float[np.ndarray, "L V"]
PROMPT = (
    "def fib(n):\n    a, b = 0, 1\n    while n:\n        a, b, n = b, a + b, n - 1\n    return a\n"
)
BOUND = 1e-3  # of the largest logit; float32 in another order of summation stays far below


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is checked: a folder, and what its config.json says."""

    config: TrainConfig
    folder: Path
    family: Family
    model_config: ModelConfig

    @functools.cached_property
    def spans(self) -> dict[str, Span]:
        """The tensors' places in files. Raises `MftError` with all that is wrong with them."""
        return base_weights.checked_spans(self.folder, self.family, self.model_config)


def run(arguments: Sequence[str]) -> int:
    values = flags.FlagValues()
    args.config_flag(values, arguments)
    flags.DEFINE_bool("headers_only", False, "read no weights, compare no logits", values)
    flags.DEFINE_string("prompt", None, "what to compare logits on, else a function", values)
    args.parse("check", arguments, values)
    config, console = args.resolved(values), VisibleConsole(markup=False, highlight=False)
    if config.model.weights == "random":
        raise MftError("model.weights='random' reads no checkpoint; expected 'pretrained'")
    folder = model_folder(config.model.path)
    subject = Subject(config, folder, *base_weights.read_model(folder))
    table, problems = overview(subject)
    console.print(table)
    if problems:
        raise MftError(
            "this checkpoint cannot be trained so:\n" + "\n".join(dict.fromkeys(problems))
        )
    if values.headers_only:
        return 0
    if values.prompt is None and (reason := incomparable(subject.family)):
        console.print(f"logits not compared: {reason}", soft_wrap=True)
        return 0
    return 0 if compare(subject, values.prompt or PROMPT, console) else 1


def incomparable(family: Family) -> str:
    """Why there is nothing to compare logits with; empty where there is."""
    if family.reference == "numpy":
        return f"transformers has no modelling file for {family.name!r}"
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed; the extra has it (pip install -e '.[parity]')"
    return ""


def overview(subject: Subject) -> tuple[Table, list[str]]:
    """All that is known without reading a weight, and all that is wrong."""
    family = subject.family
    by_numpy = "NumPy, as transformers has no modelling file"
    rows: Rows = [
        ("family", f"{family.name}: {family.models}"),
        ("architecture", family.architecture),
        ("checked against", by_numpy if family.reference == "numpy" else family.reference),
        ("notes", family.notes or "-"),
    ]
    problems: list[str] = []
    parts = {"tensors": tensor_rows, "loaded": storage_rows, "tokenizer": tokenizer_rows}
    for name, part in parts.items():
        try:
            rows += part(subject)
        except MftError as error:
            rows.append((name, "PROBLEM, see below"))
            problems.append(str(error))
    table = Table(title=subject.folder.name, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table, problems


def tensor_rows(subject: Subject) -> Rows:
    spans = subject.spans
    sizes: Counter[str] = Counter()
    for span in spans.values():
        sizes[span.dtype] += span.nbytes
    name, largest = max(spans.items(), key=lambda item: item[1].nbytes)
    files = len({span.file for span in spans.values()})
    count = sum(math.prod(span.shape) for span in spans.values())
    return [
        ("tensors", f"{len(spans):,} in {files:,} file{'s' * (files > 1)}, all accounted for"),
        ("parameters", f"{count:,}"),
        ("on disk", ", ".join(f"{decimal(n)} {kind}" for kind, n in sizes.most_common())),
        ("largest tensor", f"{name} {largest.shape}, {decimal(largest.nbytes)}"),
    ]


def storage_rows(subject: Subject) -> Rows:
    """How the weights are stored under the config's `finetune`, `mesh` and `compute_dtype`."""
    config, infos = subject.config, param_infos(subject.model_config)
    spans = subject.spans if config.finetune.adapter else {}
    base = describe(config, subject.folder, subject.family, subject.model_config, spans, quiet)
    tuning, dtype = base.tuning, config.model.compute_dtype
    check_stored(subject, tuning, base.adapted)
    count = count_parameters(tuning, infos, base.trainable_shapes, dtype)
    matrices = sum(math.prod(info.stack) for info in infos.values() if info.quantizable)
    forms = f"{matrices:,} matrices as {tuning.stored or dtype}, the rest as {dtype}"
    if tuning.method == "full":
        forms = "all as float32" + f", matrices used as {tuning.stored}" * bool(tuning.stored)
    return [
        ("loaded", forms),
        ("then stored", f"{decimal(count.stored_bytes)}, the trained part included"),
        ("bits per matrix weight", f"{count.bits_per_weight:.2f}"),
        ("trainable", f"{count.trainable:,} parameters, {count.trainable / count.total:.2%}"),
        ("attention", str(attention(subject))),
    ]


def attention(subject: Subject) -> Choice:
    asked = subject.config.model.attention
    return choose(asked, jax.default_backend(), subject.model_config)


def check_stored(subject: Subject, tuning: FinetuneConfig, adapted: frozenset[str]) -> None:
    """Raise one `MftError` that lists the weights that cannot be quantised, and those that the mesh
    does not divide."""
    config = subject.config
    how = {"dtype": config.model.compute_dtype, "adapted": adapted}
    problems: list[str] = []
    # Training may have devices that are not here; -1 depends on how many they are.
    sizes = {axis: max(size, 1) for axis, size in dataclasses.asdict(config.mesh).items()}
    mesh = jax.sharding.Mesh(np.full(tuple(sizes.values()), jax.devices()[0]), tuple(sizes))
    for path, info in param_infos(subject.model_config).items():
        one = functools.partial(store_weight, tuning, info, **how)
        try:
            sharding.leaf_shardings(mesh, info, info.struct)
            stored = jax.eval_shape(over_stack(one, len(info.stack)), info.struct)
            sharding.leaf_shardings(mesh, info, stored)
        except MftError as error:
            problems.append(str(error) if path in str(error) else f"{path}: {error}")
    if problems:
        raise MftError(f"{subject.folder} cannot be stored so:\n  " + "\n  ".join(problems))


def tokenizer_rows(subject: Subject) -> Rows:
    folder, size = subject.folder, subject.model_config.vocab_size
    tokenizer = load_tokenizer(folder, size)
    chat = chat_tokenizer(tokenizer)
    sample = Conversation((Message("user", "Hi"), Message("assistant", "Hello")), str(folder))
    pieces = render(sample, chat)
    if not encode([pieces], build_encoder(tokenizer, chat))[0][1].any():
        raise MftError(f"{folder}: the chat template yields no token to train on")
    stop = [piece.text for piece in pieces if piece.trained and piece.special][-1]
    named = {"stop": stop, "end of text": chat.eos, "padding": str(tokenizer.pad_token)}
    ids = {n: f"{t!r} ({tokenizer.convert_tokens_to_ids(t)})" for n, t in named.items()}
    if stop != chat.eos:
        ids["stop"] += ", not the end of text: generation must be told to stop at it"
    template = "the checkpoint's" if tokenizer.chat_template else "none: the built-in form is used"
    return [
        ("tokenizer", f"{len(tokenizer):,} tokens, {size:,} rows of the embedding"),
        ("chat template", template),
        ("trained on", repr("".join(piece.text for piece in pieces if piece.trained))),
        *ids.items(),
    ]


def compare(subject: Subject, prompt: str, console: Console) -> bool:
    """Whether the logits of `prompt` are those of transformers, within the printed bound."""
    if reason := incomparable(subject.family):
        raise MftError(f"--prompt has nothing to compare logits with: {reason}; leave it out")
    tokenizer = load_tokenizer(subject.folder, subject.model_config.vocab_size)
    ids = np.asarray(tokenizer(prompt)["input_ids"], np.int32)
    if not 0 < len(ids) <= subject.model_config.max_positions:
        raise MftError(
            f"--prompt has {len(ids)} tokens; expected 1 to "
            f"{subject.model_config.max_positions}, as the model has positions"
        )
    theirs = transformers_logits(subject.folder, ids)
    ours = our_logits(subject, ids, console)
    gap, bound = compare_logits(theirs, ours), BOUND * np.abs(theirs).max()
    same = bool(gap.max_abs <= bound and gap.top1_agreement == 1)
    limit = f"at most {bound:.3g}, {BOUND:g} of the largest logit"
    table = Table("logits", "value", "expected", title=f"{len(ids)} tokens, float32")
    table.add_row("max |difference|", f"{gap.max_abs:.3g}", limit)
    table.add_row("mean |difference|", f"{gap.mean_abs:.3g}")
    table.add_row("KL, nats", f"{gap.kl:.3g}")
    table.add_row("same first choice", f"{gap.top1_agreement:.2%}", "100.00%")
    console.print(table)
    console.print("PASS" if same else "FAIL: transformers computes something else with this model")
    return same


def our_logits(subject: Subject, ids: Tokens, console: Console) -> Logits:
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    with read_progress(console)(subject.folder.name) as progress:
        params = base_weights.load_params(
            subject.folder, subject.family, subject.model_config, on_bytes=progress,
            store_weight=lambda info, weight: weight.astype(jnp.float32),
            shardings=functools.partial(sharding.leaf_shardings, mesh),
        )  # fmt: skip

    @jax.jit
    def forward(params: Params, tokens: jax.Array) -> jax.Array:
        decoder = bind(subject.model_config, params)
        positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        whole, attend = jnp.ones_like(tokens), attention(subject).attend
        hidden = decoder(tokens, positions, whole, remat="none", attend=attend)
        return decoder.logit_head().logits(hidden.states)[0]

    with jax.default_matmul_precision("highest"):
        return np.asarray(forward(params, ids[None]), np.float64)


def transformers_logits(folder: Path, ids: Tokens) -> Logits:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise MftError(
            f"the comparison with transformers needs torch ({error}); install the extra (pip "
            "install -e '.[parity]'), or use --headers_only"
        ) from error
    from transformers import AutoModelForCausalLM

    try:
        # Eager attention: the faster ones leave out the soft cap of some families.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=torch.float32, attn_implementation="eager", trust_remote_code=False,
            local_files_only=True, output_loading_info=True,
        )  # fmt: skip
        model, info = loaded
        if info["missing_keys"]:
            raise MftError(f"{folder}: transformers finds no {sorted(info['missing_keys'])[:5]}")
        with torch.no_grad():
            logits = model.eval()(input_ids=torch.from_numpy(ids[None]).long()).logits[0]
    except (OSError, ImportError, StrictDataclassError, *FOREIGN_CODE_ERRORS) as error:
        raise MftError(
            f"{folder}: transformers cannot compute it ({type(error).__name__}: {error}), so there "
            "is nothing to compare logits with; mend config.json, or use --headers_only"
        ) from error
    return logits.double().numpy()
