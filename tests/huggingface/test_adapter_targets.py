"""`finetune.targets` by the checkpoint's names means what it means in peft."""

import pytest

from mft_jax.finetune.tuning import FinetuneConfig, adapted_paths
from mft_jax.huggingface.adapter_export import module_name
from mft_jax.huggingface.adapter_targets import our_targets
from mft_jax.models.families import FAMILIES
from mft_jax.models.params import param_infos
from mft_jax.types import MftError

NAMES = {
    "llama": ("q_proj", "gate_proj", "self_attn.v_proj", "lm_head", "embed_tokens"),
    "qwen2": ("k_proj", "o_proj", "mlp.down_proj"),
    "gpt_bigcode": ("c_attn", "c_proj", "attn.c_proj", "c_fc", "wte"),
    "gpt_neox": ("query_key_value", "dense", "dense_h_to_4h", "lm_head", "embed_in"),
    "phi3": ("qkv_proj", "gate_up_proj"),
    "phi": ("dense", "fc1"),
    "qwen": ("c_attn", "w1", "c_proj"),
    "baichuan": ("W_pack",),
    "chatglm": ("query_key_value", "dense_4h_to_h"),
    "mixtral": ("q_proj", "w1"),
    "qwen3_moe": ("gate_proj", "k_proj"),
    "deepseek_v2": ("kv_b_proj", "gate_proj", "shared_experts.up_proj"),
}
CASES = [(family, name) for family, names in NAMES.items() for name in names]


def model(family):
    family = FAMILIES[family]
    return family, family.read_config(family.tiny_config())


def adapted_modules(family, targets):
    """The checkpoint's modules that get an adapter."""
    family, config = model(family)
    tuning = FinetuneConfig("lora", targets=our_targets(targets, family, config))
    paths = set(adapted_paths(tuning, param_infos(config)))
    entries = [entry for entry in family.entries(config) if entry.path in paths]
    return {module_name(name) for entry in entries for name, _ in entry.tensors()}


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_name_means_all_modules_that_end_in_it(family, name):
    kind, config = model(family)
    every = {module_name(tensor) for e in kind.entries(config) for tensor, _ in e.tensors()}
    expected = {module for module in every if f".{module}".endswith(f".{name}")}
    assert expected and adapted_modules(family, (name,)) == expected


@pytest.mark.parity
@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_name_means_what_peft_takes_it_for(family, name):
    peft = pytest.importorskip("peft", reason="parity needs the extra `parity` (peft)")
    from peft.tuners.tuners_utils import check_target_module_exists

    kind, config = model(family)
    options = peft.LoraConfig(target_modules=[name])
    every = {module_name(tensor) for e in kind.entries(config) for tensor, _ in e.tensors()}
    theirs = {module for module in every if check_target_module_exists(options, module)}
    assert adapted_modules(family, (name,)) == theirs


def test_our_names_and_theirs_may_stand_side_by_side():
    targets = ("all-linear", "attention/*", "q_proj", "gate_proj", "mlp/gate", "*_proj")
    found = our_targets(targets, *model("llama"))
    assert found[:3] == ("all_linear", "attention/*", "attention/q")
    assert found[3] == "mlp/gate" and set(found[4:]) == {
        "attention/k", "attention/v", "attention/o", "mlp/up", "mlp/down"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("family", "target", "message"),
    [
        ("llama", "q_prj", r"'q_prj' matches no linear layer; did you mean 'q_proj'\? expected"),
        ("llama", "c_attn", "names of the checkpoint: down_proj, embed_tokens, gate_proj, k_proj"),
        ("phi3", "q_proj", "did you mean 'qkv_proj'"),
        ("llama", "layers.1.self_attn.q_proj", "means 1 of the 2 matrices of 'attention/q', which"),
        ("deepseek_v2", "mlp.gate_proj", "of 'mlp/gate', which are trained together"),
        ("llama", "norm", "matches no linear layer"),
    ],
)
def test_a_name_that_cannot_be_meant_is_refused(family, target, message):
    with pytest.raises(MftError, match=message):
        our_targets((target,), *model(family))
