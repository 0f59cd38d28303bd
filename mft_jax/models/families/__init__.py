"""Model families as data: how an HF config is read as capabilities, and one table of weight names
for import and export.

A new family takes one file here and one line below:

1. Find its `config.json`, its tensors' names and its published forward pass.
2. `read(reader)` returns the keyword arguments of `ModelConfig`: `reader.size` for what must be
   there, `reader.get` for what may be, `reader.with_defaults` for the values that transformers
   takes for absent keys, `reader.allow_only` for every setting that would be computed wrongly.
3. `names` maps our modules to HF's; `{layer}` and `{expert}` stand for numbers. Start from
   `GATED_NAMES`; every module that the config asks for must have a name.
4. A missing capability goes into `ModelConfig`, its combinations into `combinations`.
5. `tiny` holds small configs, one for each combination that real checkpoints have. The tests
   compare each with the reference, pack, train, export and read it again.
6. Without a modelling file in transformers, write the reference in `tests/models` and set
   `reference="numpy"`.
"""

from mft_jax.models.families.baichuan import BAICHUAN
from mft_jax.models.families.base import Family
from mft_jax.models.families.chatglm import CHATGLM
from mft_jax.models.families.deepseek_v2 import DEEPSEEK_V2
from mft_jax.models.families.gemma import GEMMA, GEMMA2, GEMMA3
from mft_jax.models.families.gpt_bigcode import GPT_BIGCODE
from mft_jax.models.families.gpt_neox import GPT_NEOX
from mft_jax.models.families.llama import LLAMA
from mft_jax.models.families.mistral import MISTRAL, MIXTRAL
from mft_jax.models.families.phi import PHI
from mft_jax.models.families.phi3 import PHI3
from mft_jax.models.families.qwen import QWEN
from mft_jax.models.families.qwen2 import QWEN2, QWEN2_MOE
from mft_jax.models.families.qwen3 import QWEN3, QWEN3_MOE
from mft_jax.models.families.starcoder2 import STARCODER2

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        LLAMA,
        QWEN2,
        QWEN3,
        MISTRAL,
        MIXTRAL,
        QWEN2_MOE,
        QWEN3_MOE,
        GPT_BIGCODE,
        STARCODER2,
        GPT_NEOX,
        PHI,
        PHI3,
        GEMMA,
        GEMMA2,
        GEMMA3,
        BAICHUAN,
        CHATGLM,
        QWEN,
        DEEPSEEK_V2,
    )
}
