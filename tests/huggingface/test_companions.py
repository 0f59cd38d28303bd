"""The files beside exported weights, as other programs read them."""

import json

import pytest
from transformers import AutoTokenizer, GenerationConfig

from mft_jax.data.builtin_template import builtin_template
from mft_jax.huggingface.companions import Companions
from mft_jax.testing import tiny_checkpoint

CHAT = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("companions") / "base")


@pytest.fixture
def written(base, tmp_path):
    """`written(**changes)`: a folder with the companions of the base after changes to its files,
    a name without its ending each; None: no such file."""

    def write(**changes):
        folder, output = tmp_path / "base", tmp_path / "out"
        folder.mkdir()
        output.mkdir()
        for file in base.iterdir():
            if file.suffix == ".json":
                (folder / file.name).write_bytes(file.read_bytes())
        for name, settings in changes.items():
            if settings is None:
                (folder / f"{name}.json").unlink()
            else:
                file = folder / f"{name}.json"
                known = json.loads(file.read_text()) if file.exists() else {}
                file.write_text(json.dumps({**known, **settings}))
        end = "<|endoftext|>"
        Companions(folder, end, builtin_template(end), (7, 0), "# Card\n").write(output)
        return output

    return write


@pytest.mark.parametrize("settings", [{}, None, {"tokenizer_class": "PreTrainedTokenizerFast"}])
def test_any_reader_finds_the_template_and_the_end_token(written, settings):
    """An adapter's folder has no config.json to choose a tokenizer by."""
    folder = written(tokenizer_config=settings)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == "<|endoftext|>"
    asked = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert asked == "<s>human\nHi\n<s>bot\n"
    # What a decoder's `generate` takes.
    assert tokenizer("x").keys() == {"input_ids", "attention_mask"}
    assert (folder / "README.md").read_text() == "# Card\n"


def test_without_a_template_to_add_the_tokenizers_files_are_the_bases(base, tmp_path):
    Companions(base).write(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (base / name).read_bytes()
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"eos_token_id": 2}, None, [2, 7, 0]),
        ({"eos_token_id": [0, 2]}, None, [0, 2, 7]),
        ({"eos_token_id": None}, None, [7, 0]),
        ({"eos_token_id": 2}, {"eos_token_id": 7, "top_k": 20}, [7, 0]),
        ({"eos_token_id": 2}, {"top_k": 20}, [2, 7, 0]),
        ({"eos_token_id": 2}, {"eos_token_id": [0, 7]}, [0, 7]),
    ],
)
def test_generation_stops_where_answers_end_and_keeps_the_bases_settings(
    written, config, generation, expected
):
    config = {**config, "bos_token_id": 5, "pad_token_id": 1}
    files = {} if generation is None else {"generation_config": generation}
    read = GenerationConfig.from_pretrained(written(config=config, **files))
    assert read.eos_token_id == expected
    if generation is None:  # else transformers would have taken them from config.json
        assert (read.bos_token_id, read.pad_token_id) == (5, 1)
    else:
        assert read.top_k == generation.get("top_k", read.top_k)
