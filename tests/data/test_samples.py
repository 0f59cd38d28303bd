import pytest

from mft_jax.data.chats import Message
from mft_jax.data.samples import Conversation, Document, check_columns, read_as, to_sample
from mft_jax.data.sources import SourceRecord
from mft_jax.types import MftError


def read(data, columns=None):
    return to_sample(SourceRecord(data, "f.jsonl:7"), columns)


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
@pytest.mark.parametrize("answer", ["answer", "output", "response", "completion"])
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


def openai(*entries, key="messages", **more):
    return {key: [dict(entry) for entry in entries], **more}


USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}
ALPACA_TEXT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n3"
)
SQUAD = {"context": "It is I.", "question": "Who?", "answer": "I"}


@pytest.mark.parametrize(
    ("data", "turns", "form"),
    [
        (openai(USER, ASSISTANT), (("user", "a"), ("assistant", "b")), "`messages`"),
        (
            openai({"role": "developer", "content": "S"}, USER, ASSISTANT, id=7),
            (("system", "S"), ("user", "a"), ("assistant", "b")),
            "`messages`; not read: `id`",
        ),
        (
            openai({"role": "user", "content": PARTS}, ASSISTANT | {"thinking": "hm"}),
            (("user", "ab"), ("assistant", "b")),
            "`messages`; not read: `messages[].thinking`",
        ),
        (
            openai(
                {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, key="conversations"
            ),
            (("user", "a"), ("assistant", "b")),
            "`conversations`",
        ),
        (
            openai(USER, ASSISTANT, key="conversations", system="S"),
            (("system", "S"), ("user", "a"), ("assistant", "b")),
            "`conversations`, `system`",
        ),
        (
            {"messages": '[{"role": "user", "content": "a"}, {"role": "bot", "content": "b"}]'},
            (("user", "a"), ("assistant", "b")),
            "`messages`",
        ),
        (
            openai(USER, ASSISTANT, prompt="a", prompt_id="7"),  # as in UltraChat
            (("user", "a"), ("assistant", "b")),
            "`messages`; not read: `prompt`, `prompt_id`",
        ),
        (
            {**ALPACA, "text": ALPACA_TEXT},
            (("user", "Add.\n1 2"), ("assistant", "3")),
            "`instruction` + `input` -> `output`; not read: `text`",
        ),
        (
            {"instruction": "Who?", "context": "It is I.", "response": "I", "category": "qa"},
            (("user", "Who?\nIt is I."), ("assistant", "I")),
            "`instruction` + `context` -> `response`; not read: `category`",
        ),
        (
            {**SQUAD, "text": "Context: It is I.\nQuestion: Who?\nAnswer: I"},
            (("user", "Who?\nIt is I."), ("assistant", "I")),
            "`question` + `context` -> `answer`; not read: `text`",
        ),
        (
            {"prompt": "It is I. Who?", "context": "It is I.", "answer": "I"},
            (("user", "It is I. Who?"), ("assistant", "I")),
            "`prompt` -> `answer`; not read: `context`",
        ),
        (
            {"text": "<s>[INST] Add 1 [/INST] 2</s>", "prompt": "Add 1", "answer": "2"},
            (("user", "Add 1"), ("assistant", "2")),
            "`prompt` -> `answer`; not read: `text`",
        ),
        (
            {"prompt": "P", "answer": "A", "": "0"},  # as pandas writes its index
            (("user", "P"), ("assistant", "A")),
            "`prompt` -> `answer`; not read: (unnamed)",
        ),
        (
            {"prompt": "P", "completion": "A", "answer": "A", "input": ""},
            (("user", "P"), ("assistant", "A")),
            "`prompt` -> `answer`; not read: `completion`, `input`",
        ),
    ],
)
def test_records_as_the_world_writes_them(data, turns, form):
    sample = read(data)
    assert sample == chat(*turns)
    assert read_as([sample]) == form


def test_a_prompt_and_a_completion_of_messages_train_the_completion_only():
    earlier = [USER, ASSISTANT, {"role": "user", "content": "c"}]
    completion = [{"role": "assistant", "content": "d"}]
    sample = read({"prompt": earlier, "completion": completion, "context": "C"})
    assert read_as([sample]) == "`prompt` -> `completion`; not read: `context`"
    assert [(m.role, m.content, m.trained) for m in sample.messages] == [
        ("user", "a", False), ("assistant", "b", False), ("user", "c", False),
        ("assistant", "d", True),
    ]  # fmt: skip
    weighed = openai(USER, ASSISTANT | {"weight": 0}, USER, ASSISTANT | {"weight": 1})
    assert [m.trained for m in read(weighed).messages] == [True, False, True, True]


CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}


@pytest.mark.parametrize(
    "asks",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "function_call": {"name": "add", "arguments": '{"x": 1}'}},
    ],
)
@pytest.mark.parametrize("role", ["tool", "function"])
def test_tools_and_their_results_are_part_of_a_chat(asks, role):
    result = {"role": role, "name": "add", "content": "2"}
    tools = [{"type": "function", "function": {"name": "add"}}]
    sample = read(openai(USER, asks, result, ASSISTANT, tools=tools))
    assert [message.role for message in sample.messages] == [
        "user", "assistant", "tool", "assistant",
    ]  # fmt: skip
    [call] = sample.messages[1].tool_fields["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": {"x": 1}}
    assert sample.messages[2].tool_fields == {"name": "add"}
    assert sample.tools == tuple(tools)


def test_a_call_in_the_form_of_sharegpt_is_part_of_a_chat():
    call = '{"name": "add", "arguments": {"x": 1}}'
    turns = ("human", "Add."), ("function_call", call), ("observation", "2"), ("gpt", "Two.")
    asked = [{"from": role, "value": text} for role, text in turns]
    messages = read({"conversations": asked}).messages
    assert [m.role for m in messages] == ["user", "assistant", "tool", "assistant"]
    [made] = messages[1].tool_fields["tool_calls"]
    assert made["function"] == {"name": "add", "arguments": {"x": 1}}
    for text, words in (("add(1)", "is no JSON"), ('"add"', "the tool call")):
        asked[1]["value"] = text
        with pytest.raises(MftError, match=f"round 2 of `conversations`.*{words}"):
            read({"conversations": asked})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (openai(USER, {"role": "tool", "content": "2"}), "role 'tool' after 'user'"),
        (openai(USER, ASSISTANT | {"weight": 2}), r"weight=2; expected 1 .* or 0"),
        (
            openai({"role": "user", "content": [{"type": "image_url"}]}, ASSISTANT),
            "`content` has the part .*expected parts of text only",
        ),
        (openai(USER, {"role": "assistant", "tool_calls": [{"name": "f"}]}), "the tool call"),
        (openai(USER, ASSISTANT, tools="add"), "`tools` is 'add'; expected a list of functions"),
        (
            openai({"role": "system", "content": "S"}, USER, ASSISTANT, system="T"),
            "more than one way, its `system` is not the system message",
        ),
        (
            {"prompt": [USER], "completion": [USER]},
            "round 1 of `completion` is out of order: role 'user' after 'user'",
        ),
    ],
)
def test_a_chat_that_cannot_be_read_says_where_and_why(data, message):
    with pytest.raises(MftError, match=f"^f.jsonl:7: .*{message}"):
        read(data)


def test_columns_name_the_fields_and_nothing_else_is_read():
    data = {"problem": "P", "code": "A", "text": "T", "prompt": "Q", "who": "S"}
    columns = {"prompt": "problem", "answer": "code", "system": "who"}
    sample = read(data, columns)
    assert sample == chat(("system", "S"), ("user", "P"), ("assistant", "A"))
    assert read_as([sample]) == "`problem` -> `code`, `who`; not read: `prompt`, `text`"
    with pytest.raises(MftError, match="`columns` names `nowhere`, but the record has the fields"):
        read(data, {"text": "nowhere"})
    with pytest.raises(MftError, match="'promt'.* did you mean 'prompt'"):
        check_columns({"promt": "problem"}, "task 't'")


def test_the_columns_that_a_refusal_names_choose_that_reading():
    data = {"prompt": "P", "answer": "A", "text": "T"}
    with pytest.raises(MftError, match="as `prompt` -> `answer`, or as `text`") as refusal:
        read(data)
    assert "columns={'prompt': 'prompt', 'answer': 'answer'} or columns={'text': 'text'}" in str(
        refusal.value
    )
    pair = read(data, {"prompt": "prompt", "answer": "answer"})
    assert pair == chat(("user", "P"), ("assistant", "A"))
    assert read(data, {"text": "text"}) == Document("T", "f.jsonl:7")


def test_a_task_of_several_forms_counts_each():
    records = [{"text": "x"}, {"text": "y"}, {"prompt": "P", "answer": "A", "id": 1}]
    assert read_as(map(read, records)) == "`text` (2), `prompt` -> `answer` (1); not read: `id`"
