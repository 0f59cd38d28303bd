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


def edit_settings(folder, **changes):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_the_builtin_tokenizer_round_trips_code():
    tokenizer = load_tokenizer(model_folder("builtin:tiny"), 4096)
    code = "def f(x):\n    return x + 1\n"
    assert tokenizer.decode(tokenizer(code)["input_ids"]) == code
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_without_a_padding_token_the_end_token_pads(folder):
    tokenizer = load_tokenizer(folder, 3)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1


def test_a_vocabulary_beyond_the_embedding_is_refused(folder):
    with pytest.raises(MftError, match="knows 3 tokens, .* id 2, but the embedding has 2 rows"):
        load_tokenizer(folder, 2)
    words = Tokenizer(WordLevel({"<unk>": 0, "</s>": 1, "x": 7}, unk_token="<unk>"))
    words.save(str(folder / "tokenizer.json"))
    with pytest.raises(MftError, match="knows 3 tokens, .* id 7, but the embedding has 7 rows"):
        load_tokenizer(folder, 7)
    assert load_tokenizer(folder, 8).eos_token_id == 1


def test_a_tokenizer_without_end_token_is_refused(folder):
    edit_settings(folder, eos_token=None)
    with pytest.raises(MftError, match="no end token"):
        load_tokenizer(folder, 3)


def test_a_slow_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(MftError, match="only fast tokenizers.*convert it once"):
        load_tokenizer(folder, 3)
    edit_settings(folder, auto_map={"AutoTokenizer": ["tokenization_own.Own", None]})
    with pytest.raises(MftError, match="put the tokenizer.json of a published conversion"):
        load_tokenizer(folder, 3)


def test_neither_config_nor_the_class_of_the_tokenizer_matters(folder):
    (folder / "config.json").write_text(
        '\ufeff{"model_type": "own", "torch_dtype": "bf16"}', "utf-8"
    )
    expected = load_tokenizer(folder, 3)
    own = {"AutoTokenizer": ["tokenization_own.Own", None]}
    edit_settings(folder, tokenizer_class="Own", auto_map=own)
    found = load_tokenizer(folder, 3)
    assert type(found) is type(expected)
    assert found.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()
    assert found.special_tokens_map == expected.special_tokens_map


def test_a_separate_file_may_hold_the_chat_template(folder):
    edit_settings(folder, chat_template="old")
    assert load_tokenizer(folder, 3).chat_template == "old"
    (folder / "chat_template.jinja").write_text("new")
    assert load_tokenizer(folder, 3).chat_template == "new"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", r"tokenizer\.json:1: invalid JSON"),
        ("tokenizer.json", "{}", r"cannot be loaded from tokenizer\.json"),
        ("tokenizer.json", '{"added_tokens": [], "model": {"type": "Own"}}', "untagged enum"),
        ("tokenizer.json", '{"added_tokens": 5}', r"cannot be loaded from tokenizer\.json"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json: expected a JSON object"),
        ("tokenizer_config.json", '{"eos_token": 5}', r"cannot be loaded from tokenizer\.json"),
        ("special_tokens_map.json", "[]", r"special_tokens_map\.json: expected a JSON object"),
    ],
)
def test_a_damaged_tokenizer_is_refused(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(MftError, match=message):
        load_tokenizer(folder, 3)
