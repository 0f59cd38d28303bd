"""The real step of a small model compiles for slices of TPUs with its kernels and with forms of
`model.remat`, and no dense weight is gathered."""

import importlib.util
import json

import pytest

from mft_jax.config import default, resolve
from mft_jax.run.plan_topology import parse
from mft_jax.run.plan_worker import compile_apart

WIDTH, MLP_WIDTH, VOCABULARY = 512, 4096, 256
LLAMA = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": MLP_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
PRODUCTS = 7  # with frozen weights in a layer


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu is not installed")
@pytest.mark.parametrize(
    ("slice_", "tensor", "remat"),
    [("v6e:2x2", 2, "dots"), ("v5e:2x2", 1, "offload")],
)
def test_the_step_compiles_with_its_kernels_and_gathers_no_dense_weight(
    slice_, tensor, remat, tmp_path
):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA), "utf-8")
    settings = default()
    settings.model.path, settings.model.remat = str(tmp_path), remat
    settings.model.attention = "splash"
    settings.data.tasks = [{"name": name, "path": f"{name}.jsonl"} for name in ("code", "tests")]
    settings.data.row_length = 256
    settings.balancer.name = "coba"
    settings.mesh.data, settings.mesh.fsdp, settings.mesh.tensor = 1, -1, tensor
    settings.loop.rows_per_step = settings.loop.valid_rows = 8
    compiled = compile_apart(resolve(settings), parse(slice_))
    assert compiled.fits and compiled.remat == remat
    # A kernel is an instruction whose cycles are not stated: one for each product and for dX.
    assert compiled.unknown >= 2 * PRODUCTS
    largest = {one.dtype: one.largest for one in compiled.collectives if one.kind == "all-gather"}
    dense = WIDTH * MLP_WIDTH // tensor  # numbers of one layer's largest weight
    assert largest["u4"] >= dense / 2, "codes are gathered"
    # Smaller arrays in bfloat16, such as activations, may be gathered.
    assert max(largest.get(dtype, 0) for dtype in ("bf16", "f32")) < 2 * dense, largest
