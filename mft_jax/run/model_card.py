"""The model card of an export, README.md in the form of the hub: what it is, how well it does on
every task, how it was trained, and how to talk to it.
"""

import dataclasses
import json
import math
import operator
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mft_jax import __version__
from mft_jax.config import RESUMABLE, LoopConfig, TrainConfig
from mft_jax.data.templates import ChatTokenizer, example
from mft_jax.huggingface.adapter_export import not_for_peft
from mft_jax.huggingface.folders import BUILTIN_PREFIX, hub_name
from mft_jax.optim import OptimConfig, warmup_steps
from mft_jax.record.columns import RunRecord
from mft_jax.record.outcome import mean_and_worst
from mft_jax.run.base_model import BaseModelInfo
from mft_jax.settings import plain, settings

# Shown always; of the others those that are not at their default, but for what decides no number,
# and for folders on the user's machine.
SHOWN = ("finetune.method", "finetune.rank", "finetune.alpha", "finetune.targets",
         "objective.name", "balancer.name", "optim.learning_rate", "optim.warmup_steps",
         "data.row_length", "data.sampling", "loop.steps", "loop.rows_per_step",
         "seed")  # fmt: skip
PLACES = ("model.path", "finetune.adapter")
QUESTION = "Write a function that adds two numbers."


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """What a card tells of.

    format    peft, merged or merged_dequantized
    stop_ids  the tokens that end an answer
    record    of the run; None: it could not be read
    changes   settings that were changed on the way: step, key, before, after
    """

    config: TrainConfig
    base: BaseModelInfo
    step: int
    format: str
    chat: ChatTokenizer
    stop_ids: tuple[int, ...]
    record: RunRecord | None
    changes: Sequence[Mapping[str, Any]] = ()

    @property
    def is_adapter(self) -> bool:
        return self.format == "peft"

    @property
    def base_label(self) -> str:
        """The base model in words, without folders of the user's machine."""
        path = self.config.model.path
        known = hub_name(path) or (path if path.startswith(BUILTIN_PREFIX) else "")
        return known or f"{self.base.folder.name} (a local folder)"


def model_card(facts: CardFacts) -> str:
    parts = [_front_matter(facts), _summary(facts), _losses(facts), _settings(facts)]
    parts += [_chat_form(facts), _loading(facts)]
    return "\n".join(parts)


def _front_matter(facts: CardFacts) -> str:
    lines = [f"library_name: {'peft' if facts.is_adapter else 'transformers'}"]
    if name := hub_name(facts.config.model.path):
        lines += [f"base_model: {name}"]
        lines += [f"base_model_relation: {'adapter' if facts.is_adapter else 'finetune'}"]
    lines += ["pipeline_tag: text-generation", "tags: [mft_jax, code, multi-task]"]
    return "\n".join(["---", *lines, "---", ""])


def _summary(facts: CardFacts) -> str:
    tuning, tasks = facts.base.tuning, facts.config.data.tasks
    several = f"{len(tasks)} task{'s' * (len(tasks) > 1)}"
    label = _cell(facts.base_label)
    if facts.is_adapter:
        title, form = f"Adapter of {label} for {several}", "A LoRA adapter in PEFT's format"
    else:
        title, form = f"{label}, fine-tuned on {several}", "All weights, in one model"
    text = (
        f"# {title}\n\n{form}, trained with mft_jax {__version__}: the model after step "
        f"{facts.step:,}{_of_all(facts.config.loop)}.\n"
    )
    if tuning.adapter:
        text += "Training started from an earlier adapter.\n"
    if tuning.stored is not None and tuning.method != "full":
        text += {
            "merged_dequantized": f"The base was quantised to {tuning.stored}, and its dequantised "
            "weights plus the adapter are what was trained.\n",
            "merged": f"The adapter was trained on a base quantised to {tuning.stored}; here it is "
            "added to the original weights, so answers differ a little.\n",
            "peft": f"It was trained on a base quantised to {tuning.stored}; on the original "
            "weights answers differ a little.\n",
        }[facts.format]
    return text


def _of_all(loop_config: LoopConfig) -> str:
    """Words for the length of the run; how many steps its epochs are, only its data says."""
    if loop_config.epochs is None:
        return f" of {loop_config.steps:,}"
    return f" of a run of {loop_config.epochs:g} epochs"


def _losses(facts: CardFacts) -> str:
    """A row per task, of the evaluation of this step or the last one before it."""
    head = "## Tasks\n"
    record = facts.record
    if record is None or not len(record.valid):
        names = (f"- {_cell(task.name)}" for task in facts.config.data.tasks)
        return "\n".join([head, *names, "", "The run left no record of its losses.", ""])
    place = max(int(np.searchsorted(record.valid.step, facts.step, side="right")) - 1, 0)
    at = int(record.valid.step[place])
    before, now = record.valid.task["loss"][0], record.valid.task["loss"][place]
    ratios = record.valid.task["ratio"][place].tolist()
    rows = [
        f"| {_cell(name)} | {record.header.data[name].train_samples:,.0f} | {_number(old)} "
        f"| {_number(new)} | {_number(ratio)} |"
        for name, old, new, ratio in zip(record.header.tasks, before, now, ratios, strict=True)
    ]
    mean, _ = mean_and_worst(ratios)
    verdict = (
        ""
        if math.isnan(mean)
        else f"Mean ratio {_number(mean)}: "
        + (
            "on the validation data it is no better than the base model."
            if mean >= 1
            else "below 1 is better than the base model."
        )
    )
    columns = f"| task | training samples | loss before | loss at step {at:,} | ratio |"
    note = "Losses are of the validation data, in nats per trained token."
    return "\n".join([head, columns, "|---|--:|--:|--:|--:|", *rows, "", note, verdict, ""])


def _settings(facts: CardFacts) -> str:
    config = dataclasses.replace(facts.config, finetune=facts.base.tuning, optim=_optim(facts))
    lines = []
    for setting in settings(TrainConfig):
        if "[]" in setting.name or setting.name in PLACES or setting.name.startswith(RESUMABLE):
            continue
        value = operator.attrgetter(setting.name)(config)
        if setting.name in SHOWN or value != setting.default:
            lines.append(f"    {setting.name} = {_value(value)}")
    if facts.changes:
        lines += ["", "Changed on the way (above are the last values):", ""]
    for change in facts.changes:
        before, after = _value(change["before"]), _value(change["after"])
        lines.append(f"    from step {change['step']:,} on: {change['key']} {before} -> {after}")
    return "\n".join(["## Training\n", *lines, ""])


def _optim(facts: CardFacts) -> OptimConfig:
    """The optimiser's settings with the warm-up that was used. Where epochs decide the steps it
    stands in the record only.
    """
    optim_config, loop_config = facts.config.optim, facts.config.loop
    if loop_config.epochs is None:
        steps = loop_config.steps
    elif facts.record is not None:
        steps = facts.record.header.planned_steps
    else:
        return optim_config
    return dataclasses.replace(optim_config, warmup_steps=warmup_steps(optim_config, steps))


def _chat_form(facts: CardFacts) -> str:
    pieces = example(facts.chat)
    asked = "".join(piece.text for piece in pieces if not piece.trained)
    answered = "".join(piece.text for piece in pieces if piece.trained)
    backend = facts.chat.tokenizer
    stops = ", ".join(f"`{backend.convert_ids_to_tokens(i)}` ({i})" for i in facts.stop_ids)
    return (
        "## Form of a chat\n\nThe tokenizer of this folder has the chat template that training "
        f"used. \"Hi\" is asked as\n\n{_indented(asked)}\n\nand \"Hello\" is answered as\n\n"
        f"{_indented(answered)}\n\nAn answer ends at {stops}, as generation_config.json says.\n"
    )  # fmt: skip


def _loading(facts: CardFacts) -> str:
    parts = ["## Use\n", *_with_transformers(facts), *_with_vllm(facts)]
    return "\n".join(parts)


def _with_transformers(facts: CardFacts) -> Iterator[str]:
    foreign = facts.base.family.reference == "numpy"
    trust = ", trust_remote_code=True" * foreign
    if foreign:
        yield "transformers has no code of its own for this family: it runs the checkpoint's.\n"
    base = json.dumps(facts.base.name) if facts.is_adapter else "folder"
    yield "```python"
    if facts.is_adapter:
        yield "from peft import PeftModel"
    yield from (
        "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig",
        "",
        'folder = "."  # this one',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f"model = AutoModelForCausalLM.from_pretrained({base}{trust})",
    )
    if facts.is_adapter:
        yield "model = PeftModel.from_pretrained(model, folder)"
    yield from (
        f'chat = [{{"role": "user", "content": {json.dumps(QUESTION)}}}]',
        "inputs = tokenizer.apply_chat_template(",
        '    chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
        ")",
        "stops = GenerationConfig.from_pretrained(folder)",
        "output = model.generate(**inputs, generation_config=stops, max_new_tokens=256)",
        "print(tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True))",
        "```",
        "",
    )


def _with_vllm(facts: CardFacts) -> Iterator[str]:
    tuning, foreign = facts.base.tuning, facts.base.family.reference == "numpy"
    trust = " --trust-remote-code" * foreign
    if not facts.is_adapter:
        yield f"```\nvllm serve .{trust}\n```\n"
        return
    if tuning.dora:
        yield "vLLM does not load adapters of DoRA: export the run as `merged` for it.\n"
        return
    if note := not_for_peft(facts.base.adapted, facts.base.family, facts.base.model_config):
        yield f"{note[0].upper()}{note[1:]}.\n"
    # vLLM takes powers of two from 8 on.
    rank = tuning.rank * (1 if tuning.init == "lora" else 2)
    largest = max(8, 2 ** math.ceil(math.log2(rank)))
    yield (
        f"```\nvllm serve {shlex.quote(facts.base.name)}{trust} \\\n"
        f"    --enable-lora --max-lora-rank {largest} --lora-modules tuned=. \\\n"
        "    --tokenizer . --generation-config .\n```\n"
    )


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.split("\n"))


def _value(value: Any) -> str:
    return json.dumps(plain(value), ensure_ascii=False)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _cell(text: str) -> str:
    """A name as plain text of Markdown, on one line."""
    text = "".join(f"\\{sign}" if sign in "\\`*_[]|#~" else sign for sign in " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
