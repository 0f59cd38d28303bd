import pytest

from mft_jax.data.samples import Conversation, Document, Message, to_sample
from mft_jax.data.sources import SourceRecord
from mft_jax.types import MftError


def read(data):
    return to_sample(SourceRecord(data, "f.jsonl:7"))


def rounds(*pairs):
    return {"chat_rounds": [{"role": role, "content": content} for role, content in pairs]}


def chat(*pairs):
    return Conversation(tuple(Message(role, content) for role, content in pairs), "f.jsonl:7")


def test_chat_rounds_of_every_role_name():
    data = rounds(
        ("system", "S"), ("human", "a"), ("bot", "b"), ("user", "c"), ("gpt", "d"),
        ("human", "e"), ("assistant", "f"),
    )  # fmt: skip
    turns = (("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"))
    assert read(data) == chat(*turns, ("assistant", "d"), ("user", "e"), ("assistant", "f"))


@pytest.mark.parametrize("prompt", ["prompt", "input", "instruction", "question", "query"])
@pytest.mark.parametrize("answer", ["answer", "output", "response"])
def test_every_pair_of_prompt_and_answer(prompt, answer):
    data = {prompt: "P", answer: "A", "id": 3, "lang": None}
    assert read(data) == chat(("user", "P"), ("assistant", "A"))
    assert read({**data, "system": "S"}) == chat(("system", "S"), ("user", "P"), ("assistant", "A"))


def test_instruction_and_input_are_joined_by_a_newline():
    alpaca = {"instruction": "Add.", "input": "1 2", "output": "3"}
    assert read(alpaca) == chat(("user", "Add.\n1 2"), ("assistant", "3"))
    assert read({**alpaca, "input": ""}) == chat(("user", "Add."), ("assistant", "3"))


def test_text_is_a_document():
    assert read({"text": "x = 1\n"}) == Document("x = 1\n", "f.jsonl:7")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (rounds(("human", "a"), ("robot", "b")), "round 2 of .* unknown role 'robot'"),
        (rounds(("human", "a"), ("human", "b")), "round 2 .* out of order: role 'human' after"),
        (rounds(("bot", "a")), "round 1 .* out of order: role 'bot' at the beginning"),
        (rounds(("human", "a"), ("system", "S"), ("bot", "b")), "round 2 .* expected assistant"),
        (rounds(("system", "S"), ("bot", "b")), "round 2 .* expected user"),
        (rounds(("human", "a")), "no answer, `chat_rounds` ends with the role 'human'"),
        (rounds(("human", "a"), ("bot", "b"), ("human", "c")), "no answer"),
        (rounds(("human", "a"), ("bot", " \n")), "round 2 .*: the answer `content` is empty"),
        (rounds(("human", "a"), ("bot", 3)), "round 2 .*: `content` is 3; expected a string"),
        (rounds(("human", "a"), (["bot"], "b")), "unknown role"),
        ({"chat_rounds": []}, "expected a list"),
        ({"chat_rounds": "hello"}, "expected a list"),
        ({"chat_rounds": [{"from": "human", "value": "a"}]}, 'expected {"role": ..., "content"'),
        ({"prompt": "P"}, "no answer, the record has only `prompt`; expected also one of `answer`"),
        ({"prompt": "P", "answer": None}, "no answer"),
        ({"answer": "A"}, "no prompt, the record has only `answer`; expected also one of `prompt`"),
        ({"prompt": "P", "answer": ""}, "the answer `answer` is empty"),
        ({"prompt": ["P"], "answer": "A"}, "`prompt` is .*; expected a string"),
        ({"prompt": "P", "answer": "A", "system": 1}, "`system` is 1; expected a string"),
        ({"prompt": "P", "answer": "A\ud800"}, "half a surrogate pair at character 2"),
        ({"text": "  "}, "`text` is empty"),
        ({"code": "x"}, "no known form, the record has the fields `code`"),
        ({}, r"no known form, the record has the fields \(none\)"),
    ],
)
def test_a_record_that_cannot_be_read_says_where_and_why(data, message):
    with pytest.raises(MftError, match=f"^f.jsonl:7.*{message}"):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        {"prompt": "P", "answer": "A", "text": "T"},
        {"prompt": "P", "text": "T"},
        {"prompt": "P", "answer": "A", **rounds(("human", "a"), ("bot", "b"))},
        {"text": "T", **rounds(("human", "a"), ("bot", "b"))},
        {"prompt": "P", "question": "Q", "answer": "A"},
        {"prompt": "P", "answer": "A", "output": "O"},
    ],
)
def test_a_record_that_can_be_read_in_two_ways_is_refused(data):
    with pytest.raises(MftError, match="can be read in more than one way"):
        read(data)
