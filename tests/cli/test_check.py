"""`mft check`: what it says of a good checkpoint, and that it finds every fault at once."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mft_jax.huggingface.tensors import INDEX_FILE
from mft_jax.testing import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
CHATML = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}STOP\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def edit_json(file, **changes):
    value = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def shard(folder, count):
    """The folder's one file as `count` shards with an index; returns the shards' files."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map, files = {}, [folder / f"part{i}.safetensors" for i in range(count)]
    for i, file in enumerate(files):
        save_file({name: tensors[name] for name in names[i::count]}, file)
        weight_map |= dict.fromkeys(names[i::count], file.name)
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))
    return files


def edit_tensors(file, edit):
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


def test_the_table_says_what_is_there_and_what_becomes_of_it(tmp_path, check, rows):
    folder = tiny_checkpoint(tmp_path / "model", "llama")
    code, out, err = check(folder, "--headers_only")
    assert (code, err) == (0, "")
    table = rows(out)
    tensors = load_file(folder / "model.safetensors")
    count = sum(tensor.size for tensor in tensors.values())
    assert table["family"].startswith("llama: Llama 1, 2, 3.x")
    assert table["architecture"] == "LlamaForCausalLM"
    assert table["checked against"] == "transformers"
    assert table["tensors"] == f"{len(tensors)} in 1 file, all accounted for"
    assert table["parameters"] == f"{count:,}"
    assert table["on disk"] == f"{4 * count / 1e6:.1f} MB F32"
    assert table["loaded"] == "14 matrices as nf4, the rest as float32"
    # (64 + 64) q, o; (64 + 32) k, v; (64 + 128) gate, up, down; times rank 4 and 2 layers
    trainable = 2 * 4 * (2 * 128 + 2 * 96 + 3 * 192)
    assert table["trainable"] == f"{trainable:,} parameters, {trainable / count:.2%}"
    assert table["chat template"] == "none: the built-in form is used"
    assert table["trained on"] == r"'Hello\n<|endoftext|>'"
    assert table["stop"] == table["end of text"] == "'<|endoftext|>' (0)"
    assert table["padding"] == "'<|pad|>' (1)"
    assert table["tokenizer"] == "4,096 tokens, 4,096 rows of the embedding"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--config.finetune.method=full"], "all as float32"),
        (["--config.finetune.method=lora"], "14 matrices as float32, the rest as float32"),
        (["--config.finetune.init=loftq"], "14 matrices as nf4, the rest as float32"),
        (["--config.finetune.init=pissa", "--config.finetune.dora=True"], "14 matrices as nf4"),
        (["--config.mesh.fsdp=4", "--config.mesh.tensor=2"], "14 matrices as nf4"),
        (["--config.mesh.fsdp=64"], "14 matrices as nf4"),  # more devices than are here
    ],
)
def test_every_way_to_finetune_can_be_checked(tmp_path, check, flags, expected, rows):
    folder = tiny_checkpoint(tmp_path / "model", "llama")
    code, out, err = check(folder, "--headers_only", *flags)
    assert code == 0, err
    assert rows(out)["loaded"].startswith(expected)


def test_the_stop_token_is_what_the_template_puts_after_an_answer(tmp_path, check, rows):
    folder = tiny_checkpoint(tmp_path / "model")
    settings = folder / "tokenizer_config.json"
    edit_json(settings, chat_template=CHATML.replace("STOP", "<|pad|>"))
    code, out, _ = check(folder, "--headers_only")
    assert code == 0
    table = rows(out)
    assert table["stop"].startswith("'<|pad|>' (1), not the end of text")
    assert table["chat template"] == "the checkpoint's"
    assert table["trained on"] == "'Hello<|pad|>'"

    edit_json(settings, chat_template=CHATML)  # STOP is plain text
    code, out, err = check(folder, "--headers_only")
    assert code == 2 and "PROBLEM" in rows(out)["tokenizer"]
    assert "puts no end token (a special token) after the answer" in err


def test_missing_tensors_a_wrong_shape_and_a_truncated_shard_are_found_at_once(
    tmp_path, check, rows
):
    folder = tiny_checkpoint(tmp_path / "model", "llama")
    files = shard(folder, 4)

    def edit(tensors):
        names = sorted(tensors)
        gone.extend(names[:2])
        wrong.append(names[2])
        for name in gone:
            del tensors[name]
        tensors[names[2]] = np.zeros((3, 5), np.float32)

    gone, wrong = [], []
    edit_tensors(files[0], edit)
    os.truncate(files[2], files[2].stat().st_size - 4)
    (folder / "tokenizer.json").unlink()
    flags = ["--config.finetune.targets=('attention/z',)", "--headers_only"]
    code, out, err = check(folder, *flags)
    assert code == 2
    for name in gone:
        assert f"missing: {name} (" in err
    assert f"{wrong[0]}: shape (3, 5), expected" in err
    assert f"{files[2]} is damaged" in err
    assert err.count("missing: ") == 2  # what is in the damaged shard is not missing
    assert "has no tokenizer.json" in err and "'attention/z' matches no linear layer" in err
    assert err.count("damaged") == 1 and "Traceback" not in err
    table = rows(out)
    assert all(table[n] == "PROBLEM, see below" for n in ("tensors", "loaded", "tokenizer"))


def test_every_weight_that_cannot_be_stored_is_named(tmp_path, check):
    folder = tiny_checkpoint(tmp_path / "model", "llama")
    code, _, err = check(folder, "--headers_only", "--config.mesh.tensor=3")
    assert code == 2
    assert len(re.findall(r"cannot be split over mesh.tensor=3", err)) == 9  # but not the norms
    edit_json(folder / "config.json", intermediate_size=96)
    code, _, err = check(folder, "--headers_only")
    assert code == 2 and "layers/mlp/down/kernel: a weight of shape (96, 64) cannot be quant" in err
    assert err.count("expected (96, 64)") == 4 and err.count("expected (64, 96)") == 2


def damage_config(folder, **changes):
    edit_json(folder / "config.json", **changes)


def truncate(folder):
    file = shard(folder, 3)[1]
    os.truncate(file, file.stat().st_size - 1)


def drop_shard(folder):
    shard(folder, 3)[1].unlink()


def index_names_an_absent_file(folder):
    shard(folder, 3)
    index = json.loads((folder / INDEX_FILE).read_text())["weight_map"]
    index |= {"model.norm.weight": "part7.safetensors"}
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": index}))


def duplicate(folder):
    first, second, _ = shard(folder, 3)
    extra = dict(list(load_file(second).items())[:1])
    edit_tensors(first, lambda tensors: tensors.update(extra))


def pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def other_dtype(folder):
    def edit(tensors):
        tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.int8)

    edit_tensors(folder / "model.safetensors", edit)


def unexpected(folder):
    def edit(tensors):
        tensors["model.vision.weight"] = np.zeros((2, 2), np.float32)

    edit_tensors(folder / "model.safetensors", edit)


@pytest.mark.parametrize(
    ("damage", "messages"),
    [
        (lambda f: os.truncate(f / "model.safetensors", 500), ["model.safetensors is cut short"]),
        (lambda f: damage_config(f, model_type="lama"), ["did you mean 'llama"]),
        (
            lambda f: damage_config(f, hidden_size=None, num_hidden_layers=0),
            ["no 'hidden_size'", "num_hidden_layers=0"],
        ),
        (lambda f: damage_config(f, vocab_size=4095), ["knows 4096 tokens", "has 4095 rows"]),
        (truncate, ["part1.safetensors is damaged"]),
        (drop_shard, ["part1.safetensors is missing"]),
        (
            index_names_an_absent_file,
            ["part7.safetensors is missing, the place of model.norm.weight"],
        ),
        (duplicate, ["is in part0.safetensors and in part1.safetensors"]),
        (pickle_only, ["pytorch_model.bin, a pickle, which is never read", "weights_only=True"]),
        (other_dtype, ["model.norm.weight: dtype I8, expected one of BF16"]),
        (unexpected, ["unexpected: model.vision.weight (2, 2)"]),
        (lambda f: (f / "model.safetensors").unlink(), ["holds no weights"]),
        (lambda f: (f / "tokenizer.json").unlink(), ["has no tokenizer.json"]),
        (lambda f: (f / "config.json").unlink(), ["has no config.json"]),
    ],
)
def test_a_fault_is_one_clear_message(tmp_path, check, damage, messages):
    folder = tiny_checkpoint(tmp_path / "model", "llama")
    damage(folder)
    code, _, err = check(folder, "--headers_only")
    assert code == 2 and err.startswith("mft check: ") and "missing: " not in err
    for message in messages:
        assert err.count(message) == 1, err


def test_a_family_without_a_reference_is_checked_by_headers_alone(tmp_path, check, rows):
    folder = tiny_checkpoint(tmp_path / "model", "baichuan")
    code, out, err = check(folder, "--headers_only")
    assert code == 0, err
    assert rows(out)["checked against"].startswith("NumPy")
    code, out, _ = check(folder)
    assert code == 0 and "logits not compared: transformers has no modelling file" in out
    code, _, err = check(folder, "--prompt=x = 1")
    assert code == 2 and "--prompt has nothing to compare logits with" in err


def test_training_from_scratch_has_no_checkpoint(tmp_path, check):
    folder = tiny_checkpoint(tmp_path / "model")
    code, _, err = check(folder, "--config.model.weights=random", "--headers_only")
    assert code == 2 and "'random' reads no checkpoint" in err
