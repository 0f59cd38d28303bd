"""The NumPy reference keeps its families' published contracts, on models small enough to check."""

import math
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

spec = spec_from_file_location("reference", Path(__file__).with_name("numpy_reference.py"))
reference = module_from_spec(spec)
spec.loader.exec_module(reference)

# Two layers of four heads of width 4, under published keys.
BAICHUAN_13B = {"model_type": "baichuan", "model_max_length": 4096, "rms_norm_eps": 1e-6}
BAICHUAN_13B |= {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
BAICHUAN_13B["vocab_size"] = 11
CHATGLM = {"model_type": "chatglm", "multi_query_group_num": 2, "layernorm_epsilon": 1e-5}
CHATGLM |= {"hidden_size": 16, "num_layers": 2, "num_attention_heads": 4, "kv_channels": 4}
CHATGLM |= {"ffn_hidden_size": 12, "multi_query_attention": True, "original_rope": True}
CHATGLM |= {"rmsnorm": True, "add_qkv_bias": True, "add_bias_linear": False}
QWEN = {"model_type": "qwen", "seq_length": 8, "no_bias": True, "layer_norm_epsilon": 1e-6}
QWEN |= {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "kv_channels": 4}
QWEN |= {"rotary_emb_base": 10000, "rotary_pct": 1.0}
FAMILIES = {
    "baichuan-7b": BAICHUAN_13B | {"max_position_embeddings": 4096},
    "baichuan2-13b": BAICHUAN_13B | {"z_loss_weight": 0},
    "chatglm": CHATGLM,
    "chatglm by head": CHATGLM | {"multi_query_attention": False},
    "qwen": QWEN,
}
FAMILY = pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES.keys())
TOKENS = np.array([[3, 1, 4, 1, 5, 9]])
# Embedding, last norm, head, the prefix of layer {} and its tensors in the order of `build`.
NAMES = {
    "baichuan": "model.embed_tokens model.norm lm_head model.layers.{}. input_layernorm "
    "post_attention_layernorm self_attn.W_pack self_attn.o_proj "
    "mlp.gate_proj mlp.up_proj mlp.down_proj",
    "chatglm": "transformer.embedding.word_embeddings transformer.encoder.final_layernorm "
    "transformer.output_layer transformer.encoder.layers.{}. input_layernorm "
    "post_attention_layernorm self_attention.query_key_value self_attention.dense "
    "mlp.dense_h_to_4h mlp.dense_4h_to_h",
    "qwen": "transformer.wte transformer.ln_f lm_head transformer.h.{}. "
    "ln_1 ln_2 attn.c_attn attn.c_proj mlp.w2 mlp.w1 mlp.c_proj",
}


def build(config: dict, outer: list, layer: list, bias: np.ndarray, gate, up, down) -> dict:
    """Arrays under published names, the same in every layer; `gate` is what silu is applied to."""
    kind = config["model_type"]
    *outer_names, prefix = NAMES[kind].split()[:4]
    tensors = {f"{name}.weight": x for name, x in zip(outer_names, outer, strict=True)}
    mlp = [np.concatenate([gate, up]), down] if kind == "chatglm" else [gate, up, down]
    for i in range(config.get("num_layers") or config["num_hidden_layers"]):
        names = [prefix.format(i) + name for name in NAMES[kind].split()[4:]]
        tensors |= {f"{n}.weight": x for n, x in zip(names, layer + mlp, strict=True)}
        tensors |= {} if kind == "baichuan" else {f"{names[2]}.bias": bias}
    return tensors


def random_tensors(config: dict) -> dict[str, np.ndarray]:
    normal = np.random.default_rng(0).normal
    width, ffn = config["hidden_size"], 12
    qkv = 32 if config.get("multi_query_attention") else 3 * width
    norms = 1 + 0.1 * normal(size=(3, width))
    outer = [normal(size=(11, width)), norms[0], normal(size=(11, width))]
    layer = [*norms[1:], 0.5 * normal(size=(qkv, width)), 0.5 * normal(size=(width, width))]
    mlp = normal(size=(ffn, width)), normal(size=(ffn, width)), normal(size=(width, ffn))
    return build(config, outer, layer, normal(size=qkv), *mlp)


@FAMILY
def test_changing_a_later_token_leaves_earlier_logits_exactly_as_they_were(config):
    tensors, changed = random_tensors(config), TOKENS.copy()
    changed[0, 3] = 7
    before = reference.logits(config, tensors, TOKENS)
    after = reference.logits(config, tensors, changed)
    assert before.shape == (1, 6, 11) and before.dtype == np.float64
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.all(np.abs(before[:, 3:] - after[:, 3:]).max(-1) > 1e-3)


@FAMILY
def test_identical_tokens_with_zero_qkv_weights_have_the_same_logits_everywhere(config):
    tensors = random_tensors(config)
    for name in tensors:
        if name.endswith(("W_pack.weight", "query_key_value.weight", "c_attn.weight")):
            tensors[name] = np.zeros_like(tensors[name])
    out = reference.logits(config, tensors, np.full((1, 5), 3))[0]
    np.testing.assert_allclose(out, np.tile(out[:1], (5, 1)), rtol=1e-12)


def test_alibi_slopes_of_8_heads_are_the_published_half_to_one_256th():
    assert reference.alibi_slopes(8) == [2.0**-n for n in range(1, 9)]


def test_alibi_slopes_of_6_and_40_heads_go_on_with_every_other_slope_of_the_next_power():
    assert reference.alibi_slopes(6) == [2.0**-n for n in (2, 4, 6, 8, 1, 3)]
    expected = [2 ** (-n / 4) for n in range(1, 33)] + [2 ** (-n / 8) for n in range(1, 16, 2)]
    np.testing.assert_allclose(reference.alibi_slopes(40), expected, rtol=1e-12)


def test_alibi_weighs_a_key_less_by_one_slope_in_the_exponent_per_token_of_distance():
    nothing = np.zeros((4, 1, 4))
    weights = reference.attend(nothing, nothing, np.eye(4)[:, None], [0.5])
    np.testing.assert_allclose(weights[3, 1:] / weights[3, :-1], np.exp(0.5))
    assert weights[1, 2:].tolist() == [0, 0]


def test_neighbouring_heads_share_a_group_of_keys_and_values():
    values = np.array([[[1.0], [2.0]]])
    out = reference.attend(np.zeros((1, 4, 1)), np.zeros((1, 2, 1)), values, [0.0] * 4)
    assert out.tolist() == [[1, 1, 2, 2]]


@pytest.mark.parametrize("mark", [{"z_loss_weight": 0}, {"vocab_size": 125696}])
def test_the_length_of_a_head_row_matters_to_baichuan_1_but_not_to_baichuan_2(mark):
    tensors, by = random_tensors(BAICHUAN_13B), np.arange(1, 12)
    longer = tensors | {"lm_head.weight": tensors["lm_head.weight"] * by[:, None]}
    before, after = (reference.logits(BAICHUAN_13B | mark, x, TOKENS) for x in (tensors, longer))
    np.testing.assert_allclose(before, after, rtol=1e-12)
    before, after = (reference.logits(BAICHUAN_13B, x, TOKENS) for x in (tensors, longer))
    np.testing.assert_allclose(before * by, after, rtol=1e-12)


@pytest.mark.parametrize("pairs", [reference.half_split_pairs(8), reference.interleaved_pairs(8)])
def test_the_score_of_rotated_q_and_k_depends_only_on_their_distance(pairs):
    q, k = np.random.default_rng(0).normal(size=(2, 8))
    q, k = (reference.rotate(np.tile(x, (7, 1, 1)), pairs, 100.0)[:, 0] for x in (q, k))
    scores = q @ k.T
    np.testing.assert_allclose(scores[1:, 1:], scores[:-1, :-1], rtol=1e-12)
    assert np.abs(np.diff(scores[:, 0])).min() > 1e-3


def test_pairs_are_neighbours_or_half_the_width_apart_and_the_second_turns_more_slowly():
    x = np.tile(np.array([1.0, 0, 0, 0]), (2, 1, 1))
    c, s = math.cos(1), math.sin(1)
    neighbours, halves = reference.interleaved_pairs(4), reference.half_split_pairs(4)
    np.testing.assert_allclose(reference.rotate(x, neighbours, 1e4)[1, 0], [c, s, 0, 0])
    np.testing.assert_allclose(reference.rotate(x, halves, 1e4)[1, 0], [c, 0, s, 0])
    c, s = math.cos(0.01), math.sin(0.01)
    np.testing.assert_allclose(reference.rotate(x[..., ::-1], halves, 1e4)[1, 0], [0, -s, 0, c])


def test_chatglm_without_groups_packs_q_k_and_v_head_by_head():
    whole = CHATGLM | {"multi_query_attention": True, "multi_query_group_num": 4}
    by_head = CHATGLM | {"multi_query_attention": False}
    tensors = random_tensors(by_head)
    # Rows of the matrix in order of the heads: 0 is q of the first one, 4 its k, 8 its v.
    q0, k0, v0, q1, k1, v1, q2, k2, v2, q3, k3, v3 = np.arange(48).reshape(12, 4)
    order = np.concatenate([q0, q1, q2, q3, k0, k1, k2, k3, v0, v1, v2, v3])
    sorted_rows = {
        name: x[order] if ".query_key_value." in name else x for name, x in tensors.items()
    }
    want = reference.logits(whole, sorted_rows, TOKENS)
    np.testing.assert_allclose(reference.logits(by_head, tensors, TOKENS), want, rtol=1e-12)
    assert np.abs(reference.logits(whole, tensors, TOKENS) - want).max() > 0.1


@pytest.mark.parametrize(("kept", "moves"), [(slice(0, 2), True), (slice(2, 4), False)])
def test_chatglm_sees_the_order_of_keys_only_through_the_first_half_of_a_head(kept, moves):
    config = CHATGLM | {"num_layers": 1}
    tensors, mask = random_tensors(config), np.zeros((6, 4))
    mask[:, kept] = 1  # the channels kept in the four query heads and the two key groups
    mask = np.concatenate([mask.reshape(-1), np.ones(8)])
    qkv = "transformer.encoder.layers.0.self_attention.query_key_value."
    tensors[qkv + "weight"] = tensors[qkv + "weight"] * mask[:, None]
    tensors[qkv + "bias"] = tensors[qkv + "bias"] * mask
    orders = np.array([[3, 1, 4, 5, 9], [5, 4, 3, 1, 9]])
    difference = np.subtract(*reference.logits(config, tensors, orders)[:, -1])
    assert (np.abs(difference).max() > 1e-3) == moves


def by_hand(near, far, scores, bias):
    """The second logits of one layer; values are three times `far` and `near`, of RMS 1."""
    a, b = np.exp(scores)
    x = near + 3 * (a * far + b * near) / (a + b) + bias
    h = x / math.sqrt(np.mean(x**2))
    x[0] += h[0] / (1 + math.exp(-h[0])) * h[1]
    return x / math.sqrt(np.mean(x**2))


# The query (1, -1), on from its key by one radian, meets the key (0, 2) at 0 and at itself.
TURN = 2 * (math.sin(1) - math.cos(1))
EXPECTED = {
    "baichuan-7b": (TURN / math.sqrt(2), -math.sqrt(2)),
    "baichuan2-13b": (-math.sqrt(2), -math.sqrt(2) + 2**-8),
    # Of eight channels the next two, (1, 1) with (2, 2) or (-2, 2), turn slowly, four never.
    **dict.fromkeys(
        ("chatglm", "chatglm by head"),
        ((TURN + 4 * math.cos(500000**-0.5) + 8) / math.sqrt(8), 6 / math.sqrt(8)),
    ),
    "qwen": (TURN / math.sqrt(2), -math.sqrt(2)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_one_layer_of_one_head_computes_what_can_be_computed_by_hand(family):
    width = 8 if family.startswith("chatglm") else 2
    one = {"hidden_size": width, "kv_channels": width, "num_attention_heads": 1}
    one |= {"num_hidden_layers": 1, "num_layers": 1, "multi_query_group_num": 1}
    one |= {"rms_norm_eps": 0, "layernorm_epsilon": 0, "layer_norm_epsilon": 0}
    config = FAMILIES[family] | one | {"ffn_hidden_size": 1, "rope_ratio": 50}
    far, near, eye = np.ones(width), 1 - 2 * np.eye(width)[1], np.eye(width)
    outer = [np.stack([far, near]), far, 3 * eye if family == "baichuan2-13b" else eye]
    layer = [far, far, np.concatenate([eye, 2 * np.eye(width, k=-1), 3 * eye]), eye]
    bias = np.zeros(3 * width)
    bias[-1] = 0.0 if family.startswith("baichuan") else 0.5  # on the last channel of the values
    tensors = build(config, outer, layer, bias, eye[:1], eye[1:2], eye[:, :1])
    logits = reference.logits(config, tensors, np.array([[0, 1]]))
    expected = by_hand(near, far, EXPECTED[family], bias[-width:])
    np.testing.assert_allclose(logits[0, 1], expected, rtol=1e-12)


def test_what_the_reference_does_not_cover_is_refused():
    with pytest.raises(ValueError, match="seq_length 8"):
        reference.logits(QWEN, {}, np.zeros((1, 9), int))
    with pytest.raises(ValueError, match="add_bias_linear"):
        reference.logits(CHATGLM | {"add_bias_linear": True}, {}, TOKENS)
