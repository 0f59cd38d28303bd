import json

import pytest

from mft_jax.data.chats import Message
from mft_jax.data.samples import to_sample
from mft_jax.data.sources import SourceRecord
from mft_jax.types import MftError


def read(data, columns=None):
    return to_sample(SourceRecord(data, "f.jsonl:7"), columns)


@pytest.mark.parametrize(
    "data",
    [
        {"prompt": "a", "answer": "18", "text": "A story of a king who was 18 years old."},
        {"prompt": "", "answer": "18", "text": "18 kings"},
        {"instruction": "", "input": "", "output": "18", "text": "### Response: 18"},
    ],
)
def test_a_text_that_happens_to_contain_prompt_and_answer_does_not_repeat_them(data):
    with pytest.raises(MftError, match="can be read in more than one way"):
        read(data)


@pytest.mark.parametrize(("more", "repeats"), [("12345", True), ("123456", False)])
def test_more_than_half_of_a_text_is_the_texts_that_it_repeats(more, repeats):
    data = {"prompt": "abcd", "answer": "ef", "text": f"<s>abcd {more}\nAnswer: ef</s>"}
    if repeats:
        assert len(read(data).messages) == 2
    else:
        with pytest.raises(MftError, match="can be read in more than one way"):
            read(data)


@pytest.mark.parametrize(
    ("chosen", "columns"),
    [
        ("A", {"prompt": "prompt", "answer": "chosen"}),
        (
            [{"role": "user", "content": "P"}, {"role": "bot", "content": "A"}],
            {"messages": "chosen"},
        ),
    ],
)
def test_a_record_of_preferences_is_told_the_columns_that_read_it(chosen, columns):
    data = {"prompt": "P", "chosen": chosen, "rejected": "B"}
    with pytest.raises(MftError, match="no answer") as refusal:
        read(data)
    assert f"columns={json.dumps(columns)}" in str(refusal.value)
    assert read(data, columns).messages == (Message("user", "P"), Message("assistant", "A"))


def test_a_context_that_is_no_text_is_refused_beside_any_prompt():
    with pytest.raises(MftError, match="`context` is .*expected a string"):
        read({"question": "Who?", "context": {"lines": ["It is I."]}, "answer": "I"})
