import json

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from mft_jax.huggingface.folders import model_folder
from mft_jax.huggingface.tokenizers import load_tokenizer
from mft_jax.types import MftError


@pytest.fixture
def folder(tmp_path):
    words = Tokenizer(WordLevel({"<unk>": 0, "</s>": 1, "x": 2}, unk_token="<unk>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    fast.save_pretrained(tmp_path)
    return tmp_path


def test_the_builtin_tokenizer_round_trips_code():
    tokenizer = load_tokenizer(model_folder("builtin:tiny"), 4096)
    code = "def f(x):\n    return x + 1\n"
    assert tokenizer.decode(tokenizer(code)["input_ids"]) == code
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_without_a_padding_token_the_end_token_pads(folder):
    tokenizer = load_tokenizer(folder, 3)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1


def test_a_vocabulary_beyond_the_embedding_is_refused(folder):
    with pytest.raises(MftError, match="knows 3 tokens, but the embedding has 2 rows"):
        load_tokenizer(folder, 2)


def test_a_tokenizer_without_end_token_is_refused(folder):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": None}))
    with pytest.raises(MftError, match="no end token"):
        load_tokenizer(folder, 3)


def test_a_slow_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(MftError, match="only fast tokenizers"):
        load_tokenizer(folder, 3)


def test_a_damaged_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(MftError, match=r"tokenizer\.json:1: invalid JSON"):
        load_tokenizer(folder, 3)
