"""Writer of `bitsandbytes_nf4.npz`: a few matrices in NF4 as bitsandbytes quantises them.

    pip install -e '.[parity]' && python tests/weights/make_bitsandbytes_goldens.py

Run by hand; the file is part of the repository, so that its readers need no torch. It holds:

    recipes          JSON list, one per matrix W, float32 [in, out]: name, seed, shape, scale,
                     set (list of [first row, end row, column, value]), sha256 of W's bytes:
                         W = (np.random.RandomState(seed).randn(*shape) * scale).astype(np.float32)
                         for first, end, column, value in set: W[first:end, column] = value
    table            [16] float32, level of each code
    NAME.codes       [in, out] uint8 in 0..15, blocks of 64 along `in`
    NAME.absmax      [in/64, out] float32
    NAME.errors      [2, 2] float64: rows plain, double quantised absmax (blocks of 256, 8 bits);
                     columns mean of squared, largest absolute error of the reconstruction
    bitsandbytes     its version

bitsandbytes quantises a linear layer's weight as it is stored, [out, in], in runs of 64 values. The
two codes of a byte are in reading order, the first in the high half; this is checked here.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path

import numpy as np
import torch
from bitsandbytes import functional

BLOCK = 64
RECIPES = [
    {"name": "small", "seed": 0, "shape": [64, 8], "scale": 1.0, "set": []},
    {"name": "wide", "seed": 1, "shape": [256, 704], "scale": 0.02, "set": []},
    {"name": "odd", "seed": 2, "shape": [128, 100], "scale": 3.0, "set": []},
    {"name": "outlier", "seed": 3, "shape": [128, 64], "scale": 0.02, "set": [[70, 71, 5, 8.0]]},
    {"name": "zero_block", "seed": 4, "shape": [128, 16], "scale": 0.1, "set": [[64, 128, 3, 0.0]]},
]


def matrix(recipe: dict) -> np.ndarray:
    random = np.random.RandomState(recipe["seed"])
    values = (random.randn(*recipe["shape"]) * recipe["scale"]).astype(np.float32)
    for first, end, column, value in recipe["set"]:
        values[first:end, column] = value
    return values


def unpack(packed: torch.Tensor, rows: int) -> np.ndarray:
    """The codes [in, out] from the bytes of a stored [out, in] weight; `rows` is `in`."""
    data = packed.numpy().reshape(-1)
    return np.stack([data >> 4, data & 15], axis=-1).reshape(-1, rows).T.copy()


def quantized(values: np.ndarray, nested: bool):
    """(codes [in, out], state, reconstruction [in, out], [mean squared, largest] error)."""
    stored = torch.from_numpy(values.T.copy())
    packed, state = functional.quantize_4bit(
        stored, blocksize=BLOCK, quant_type="nf4", compress_statistics=nested
    )
    restored = functional.dequantize_4bit(packed, state).numpy().T
    error = np.abs(restored.astype(np.float64) - values)
    return unpack(packed, len(values)), state, restored, [np.mean(error**2), np.max(error)]


def goldens(values: np.ndarray) -> dict[str, np.ndarray]:
    codes, state, restored, plain_errors = quantized(values, nested=False)
    nested_codes, _, _, nested_errors = quantized(values, nested=True)
    table = state.code.numpy()
    absmax = state.absmax.numpy().reshape(-1, len(values) // BLOCK).T.copy()
    np.testing.assert_array_equal(table[codes] * np.repeat(absmax, BLOCK, axis=0), restored)
    np.testing.assert_array_equal(nested_codes, codes)
    errors = np.array([plain_errors, nested_errors])
    return {"codes": codes, "absmax": absmax, "errors": errors, "table": table}


def main() -> None:
    arrays: dict[str, np.ndarray] = {}
    for recipe in RECIPES:
        values = matrix(recipe)
        recipe["sha256"] = hashlib.sha256(values.tobytes()).hexdigest()
        made = goldens(values)
        arrays["table"] = made.pop("table")
        arrays |= {f"{recipe['name']}.{key}": array for key, array in made.items()}
        print(recipe["name"], recipe["shape"], made["errors"].tolist())
    path = Path(__file__).with_name("bitsandbytes_nf4.npz")
    np.savez_compressed(
        path,
        recipes=np.array(json.dumps(RECIPES)),
        bitsandbytes=np.array(importlib.metadata.version("bitsandbytes")),
        **arrays,
    )
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
