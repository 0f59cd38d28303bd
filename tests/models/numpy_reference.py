"""Forward passes of three Hugging Face families in NumPy, to hold the JAX decoder against.

Baichuan 1 and 2, ChatGLM 2 and 3 (with CodeGeeX 2) and Qwen 1 were published as remote code:
transformers 5 ships no modelling file for them. These passes take a published `config.json` and
tensors under their published names, and compute in float64, one query and one head at a time:
slow, literal, and nothing like the JAX code they check.

Sources: the configs, the tensor names and the modelling files of baichuan-inc/Baichuan2-7B-Base,
baichuan-inc/Baichuan2-13B-Base, THUDM/chatglm2-6b, THUDM/codegeex2-6b and Qwen/Qwen-7B. This was
written from those layouts. Compared once with public copies of the modelling files (but for
CodeGeeX 2's) on small random models, it agreed to rounding; it has not been run against the
original weights. ChatGLM2-6B-32K, whose `rope_ratio` divides positions instead, is not covered.
"""

import math
from collections.abc import Callable

import numpy as np

BAICHUAN2_VOCAB = 125696
Tensors = dict[str, np.ndarray]
Forward = Callable[[dict, Tensors, np.ndarray], np.ndarray]


def logits(hf_config: dict, tensors: Tensors, tokens: np.ndarray) -> np.ndarray:
    """[B, L] token ids -> [B, L, V] float64 logits of the model that `hf_config` describes."""
    forwards: dict[str, Forward] = {"baichuan": baichuan, "chatglm": chatglm, "qwen": qwen}
    forward = forwards[hf_config["model_type"]]
    exact = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
    return np.stack([forward(hf_config, exact, row) for row in np.asarray(tokens)])


def baichuan(config: dict, tensors: Tensors, row: np.ndarray) -> np.ndarray:
    """7B rotates queries and keys; 13B, whose config has no position limit, adds ALiBi."""
    heads, width = config["num_attention_heads"], config["hidden_size"]
    rotary = "max_position_embeddings" in config
    eps = config["rms_norm_eps"]
    slopes = [0.0] * heads if rotary else alibi_slopes(heads)
    x = tensors["model.embed_tokens.weight"][row]
    for i in range(config["num_hidden_layers"]):
        layer = below(tensors, f"model.layers.{i}.")
        packed = (
            rms_norm(x, layer["input_layernorm.weight"], eps) @ layer["self_attn.W_pack.weight"].T
        )
        q, k, v = (split_heads(part, heads) for part in cut(packed, [width, width, width]))
        if rotary:
            q, k = (rotate(y, half_split_pairs(width // heads), 10000.0) for y in (q, k))
        x = x + attend(q, k, v, slopes) @ layer["self_attn.o_proj.weight"].T
        h = rms_norm(x, layer["post_attention_layernorm.weight"], eps)
        gate, up = h @ layer["mlp.gate_proj.weight"].T, h @ layer["mlp.up_proj.weight"].T
        x = x + (silu(gate) * up) @ layer["mlp.down_proj.weight"].T
    head = tensors["lm_head.weight"]
    if "z_loss_weight" in config or config["vocab_size"] == BAICHUAN2_VOCAB:
        head = norm_head(head)
    return rms_norm(x, tensors["model.norm.weight"], eps) @ head.T


def chatglm(config: dict, tensors: Tensors, row: np.ndarray) -> np.ndarray:
    """Rotary on interleaved pairs of each head's first half only. With `multi_query_attention` all
    queries come first, then the keys of the groups, then their values; without it q, k and v of
    the first head, then of the second, and so on."""
    expected = {
        "rmsnorm": True,
        "add_qkv_bias": True,
        "add_bias_linear": False,
        "original_rope": True,
    }
    require(config, expected)
    heads, head_width = config["num_attention_heads"], config["kv_channels"]
    pairs = interleaved_pairs(head_width // 2)
    theta = 10000.0 * config.get("rope_ratio", 1.0)
    eps = config["layernorm_epsilon"]
    x = tensors["transformer.embedding.word_embeddings.weight"][row]
    for i in range(config["num_layers"]):
        layer = below(tensors, f"transformer.encoder.layers.{i}.")
        h = rms_norm(x, layer["input_layernorm.weight"], eps)
        packed = h @ layer["self_attention.query_key_value.weight"].T
        packed = packed + layer["self_attention.query_key_value.bias"]
        if config.get("multi_query_attention", False):
            groups = config["multi_query_group_num"]
            q, k, v = cut(packed, [heads * head_width, groups * head_width, groups * head_width])
            q, k, v = split_heads(q, heads), split_heads(k, groups), split_heads(v, groups)
        else:
            q, k, v = cut(split_heads(packed, heads), [head_width, head_width, head_width])
        q, k = rotate(q, pairs, theta), rotate(k, pairs, theta)
        x = x + attend(q, k, v, [0.0] * heads) @ layer["self_attention.dense.weight"].T
        h = rms_norm(x, layer["post_attention_layernorm.weight"], eps)
        ffn = config["ffn_hidden_size"]
        gate, up = cut(h @ layer["mlp.dense_h_to_4h.weight"].T, [ffn, ffn])
        x = x + (silu(gate) * up) @ layer["mlp.dense_4h_to_h.weight"].T
    x = rms_norm(x, tensors["transformer.encoder.final_layernorm.weight"], eps)
    return x @ tensors["transformer.output_layer.weight"].T


def qwen(config: dict, tensors: Tensors, row: np.ndarray) -> np.ndarray:
    """Up to `seq_length` tokens: the scaling of queries and of the base acts only beyond it."""
    require(config, {"no_bias": True})
    if len(row) > config["seq_length"]:
        raise ValueError(f"{len(row)} tokens, above seq_length {config['seq_length']}")
    heads, head_width = config["num_attention_heads"], config["kv_channels"]
    pairs = half_split_pairs(int(head_width * config["rotary_pct"]))
    theta = config["rotary_emb_base"]
    eps = config["layer_norm_epsilon"]
    x = tensors["transformer.wte.weight"][row]
    for i in range(config["num_hidden_layers"]):
        layer = below(tensors, f"transformer.h.{i}.")
        packed = rms_norm(x, layer["ln_1.weight"], eps) @ layer["attn.c_attn.weight"].T
        packed = packed + layer["attn.c_attn.bias"]
        q, k, v = (split_heads(part, heads) for part in cut(packed, [heads * head_width] * 3))
        q, k = rotate(q, pairs, theta), rotate(k, pairs, theta)
        x = x + attend(q, k, v, [0.0] * heads) @ layer["attn.c_proj.weight"].T
        h = rms_norm(x, layer["ln_2.weight"], eps)
        up, gate = h @ layer["mlp.w1.weight"].T, h @ layer["mlp.w2.weight"].T
        x = x + (up * silu(gate)) @ layer["mlp.c_proj.weight"].T
    return rms_norm(x, tensors["transformer.ln_f.weight"], eps) @ tensors["lm_head.weight"].T


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, slopes: list[float]) -> np.ndarray:
    """Causal attention; q is [L, H, C], k and v [L, G, C], and H // G neighbours share a group.

    `slopes[head] * key position` is added to the scores, as ALiBi does. Returns [L, H * C].
    """
    length, heads, width = q.shape
    share = heads // k.shape[1]
    out = np.zeros((length, heads, width))
    for head in range(heads):
        group = head // share
        for i in range(length):
            seen = range(i + 1)
            scores = [q[i, head] @ k[j, group] / math.sqrt(width) + slopes[head] * j for j in seen]
            weights = [math.exp(score - max(scores)) for score in scores]
            for j in seen:
                out[i, head] += weights[j] / sum(weights) * v[j, group]
    return out.reshape(length, heads * width)


def rotate(x: np.ndarray, pairs: list[tuple[int, int]], theta: float) -> np.ndarray:
    """Turn pair n of the channels of x [L, H, C] by position * theta ** (-n / len(pairs))."""
    out = x.copy()
    for position in range(x.shape[0]):
        for n, (a, b) in enumerate(pairs):
            angle = position * theta ** (-n / len(pairs))
            first, second = x[position, :, a], x[position, :, b]
            out[position, :, a] = first * math.cos(angle) - second * math.sin(angle)
            out[position, :, b] = second * math.cos(angle) + first * math.sin(angle)
    return out


def half_split_pairs(rotary_width: int) -> list[tuple[int, int]]:
    """Channel n turns with channel n + half; channels from `rotary_width` on are not changed."""
    half = rotary_width // 2
    return [(n, n + half) for n in range(half)]


def interleaved_pairs(rotary_width: int) -> list[tuple[int, int]]:
    """Channel 2n turns with channel 2n + 1; channels from `rotary_width` on are not changed."""
    return [(2 * n, 2 * n + 1) for n in range(rotary_width // 2)]


def alibi_slopes(heads: int) -> list[float]:
    """2 ** (-8 n / heads) for n = 1..heads where `heads` is a power of two.

    Otherwise the slopes of the power of two below, then the 1st, 3rd, ... of the one above.
    """
    below_or_equal = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8 * n / below_or_equal) for n in range(1, below_or_equal + 1)]
    finer = [2.0 ** (-8 * n / (2 * below_or_equal)) for n in range(1, 2 * below_or_equal + 1)]
    return slopes + finer[0::2][: heads - below_or_equal]


def norm_head(weight: np.ndarray) -> np.ndarray:
    """Every row [V, D] at length one; 1e-12 keeps a row of zeros at zero."""
    return weight / np.maximum(np.sqrt((weight**2).sum(axis=1, keepdims=True)), 1e-12)


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return weight * x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


def split_heads(x: np.ndarray, heads: int) -> np.ndarray:
    return x.reshape(len(x), heads, -1)


def cut(x: np.ndarray, widths: list[int]) -> list[np.ndarray]:
    """The last axis in consecutive parts of exactly these widths."""
    if sum(widths) != x.shape[-1]:
        raise ValueError(f"{x.shape[-1]} channels, not {widths}")
    return np.split(x, np.cumsum(widths)[:-1], axis=-1)


def below(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def require(config: dict, expected: dict) -> None:
    found = {key: config.get(key) for key in expected}
    if found != expected:
        raise ValueError(f"only {expected} is covered, not {found}")
