r"""MFTCoder's form, which `templates` renders where a tokenizer has no chat template, as Jinja.

An exported model carries it, so that vLLM and transformers ask as training did:

    <s>human\nHi\n<s>bot\n             asked, with add_generation_prompt
    <s>human\nHi\n<s>bot\nHello\nEOS   with its answer
"""

import json

TEMPLATE = """\
{%- for message in messages -%}
{%- if not loop.first and messages[loop.index0 - 1].role == "assistant" -%}{{ "\\n" }}{%- endif -%}
{%- if message.role == "system" -%}{{ "<s>system\\n" + message.content + "\\n" }}
{%- elif message.role == "user" -%}{{ "<s>human\\n" + message.content + "\\n" }}
{%- elif message.role == "assistant" -%}{{ "<s>bot\\n" + message.content + "\\n" + END }}
{%- else -%}{{ raise_exception("roles are system, user and assistant") }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "<s>bot\\n" }}{%- endif -%}
"""


def builtin_template(end_token: str) -> str:
    """The chat template of MFTCoder's form, whose answers end with `end_token`."""
    # A JSON string is a Jinja string. The token by its text: a reader's `eos_token` may be another.
    return TEMPLATE.replace("END", json.dumps(end_token, ensure_ascii=False))
