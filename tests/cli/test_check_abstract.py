"""`mft check --headers_only` of a model far larger than the machine."""

import json
import math
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

from mft_jax.huggingface.base_weights import hf_shape, read_model
from mft_jax.huggingface.tensors import DTYPES, INDEX_FILE
from mft_jax.models.params import param_infos
from mft_jax.testing import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
LLAMA_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "dtype": "bfloat16",
}


def sparse_checkpoint(folder, hf_config, shards):
    """Headers, and holes where the weights would be. Returns the bytes announced."""
    tiny_checkpoint(folder, "llama")
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(json.dumps(hf_config))
    family, config = read_model(folder)
    infos = param_infos(config)
    entries = [(n, hf_shape(e, infos)) for e in family.entries(config) for n, _ in e.tensors()]
    weight_map, total = {}, 0
    for number in range(shards):
        header, offset = {}, 0
        file = folder / f"model-{number + 1:05}-of-{shards:05}.safetensors"
        for name, shape in entries[number::shards]:
            end = offset + math.prod(shape) * DTYPES["BF16"].itemsize
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
            weight_map[name], offset = file.name, end
        raw = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(raw)) + raw)
        os.truncate(file, 8 + len(raw) + offset)
        total += offset
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))
    return total


def test_a_70b_checkpoint_is_checked_in_seconds_without_memory(tmp_path, rows):
    total = sparse_checkpoint(tmp_path / "big", LLAMA_70B, shards=15)
    assert total == 2 * 68_976_648_192
    script = (
        "import resource, sys, time\n"
        "from mft_jax.cli import check, main\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n"
        "    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    print('grown by', after - before, 'KiB in', time.process_time(), 's')\n"
    )
    config = f"--config={ROOT / 'configs' / 'quickstart.py'}"
    flags = [f"--config.model.path={tmp_path / 'big'}", "--config.mesh.fsdp=8", "--headers_only"]
    done = subprocess.run(
        [sys.executable, "-c", script, "check", config, *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
    )
    assert done.returncode == 0, done.stderr
    grown, seconds = re.search(r"grown by (\d+) KiB in (\S+) s", done.stdout).groups()
    assert int(grown) < 256 * 1024
    assert float(seconds) < 20  # of the processor, imports included
    table = rows(done.stdout)
    assert table["tensors"] == "723 in 15 files, all accounted for"
    assert table["parameters"] == "68,976,648,192" and table["on disk"] == "138.0 GB BF16"
    assert "(32000, 8192), 524.3 MB" in table["largest tensor"]
    assert "560 matrices as nf4" in table["loaded"]
