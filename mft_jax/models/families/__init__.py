"""Families are data: an HF config read as capabilities, and one weight table read both ways.

A new family takes one file here and one line below:

1. Find its `config.json`, its tensors' names and its published forward pass.
2. `read(keys)` returns the keyword arguments of `ModelConfig`: `keys.size` for what must be there,
   `keys.get` for what may be, `keys.otherwise` for what transformers takes instead,
   `keys.refuse` for every setting that would be computed wrongly.
3. `NAMES` maps our modules to HF's, `{layer}` and `{expert}` standing for numbers. Start from
   `GATED_NAMES`; whatever the config asks for must have a name.
4. A capability that is missing goes into `ModelConfig`, its combinations into `combinations`.
5. `tiny` holds small configs, one for each form that real checkpoints have; they are compared
   with the reference, packed, trained, exported and read again by the tests as they stand.
6. Without a modelling file in transformers write the reference in `tests/models`, and say so.
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
