"""The README's table of model families, made from the registry.

python docs/support_table.py
"""

import functools

import jax
import jax.numpy as jnp

from mft_jax.finetune.attach import store_weight
from mft_jax.finetune.tuning import FinetuneConfig, is_linear
from mft_jax.models.decoder import logical_axes, param_shapes
from mft_jax.models.families import FAMILIES
from mft_jax.models.families.base import Family
from mft_jax.sharding import RULES

HEADER = (
    "family (`model_type`)",
    "checkpoints",
    "checked against",
    "quantisation",
    "mesh axes",
    "long context, limits",
)


def quantisations(family: Family) -> list[str]:
    """Those that every matrix of the family's tiny models takes."""
    found = []
    for name in ("nf4", "int4", "int8"):
        store = functools.partial(store_weight, FinetuneConfig("qlora", name), dtype=jnp.bfloat16)
        for variant in family.tiny:
            shapes = param_shapes(family.read_config(family.tiny_config(variant)))
            for path, shape in shapes.items():
                if is_linear(path):
                    one = jax.ShapeDtypeStruct(shape.shape[-2:], shape.dtype)
                    jax.eval_shape(functools.partial(store, path), one)
        found.append(name)
    return found


def mesh_axes(family: Family) -> list[str]:
    """Axes over which something of the model is split; rows always are over data and fsdp."""
    shapes = param_shapes(family.read_config(family.tiny_config()))
    used = {RULES[axis] for path in shapes for axis in logical_axes(path)}
    return [axis for axis in ("data", "fsdp", "tensor") if axis in used | {"data"}]


def row(family: Family) -> tuple[str, ...]:
    reference = {
        "transformers": "transformers",
        "numpy": "NumPy, from the published layout (transformers has no modelling file)",
    }
    experts = family.read_config(family.tiny_config()).experts
    note = "experts of all tokens are computed on every device of data and fsdp"
    notes = [family.notes, note if experts else ""]
    return (
        f"`{family.name}`",
        family.models,
        reference[family.reference],
        ", ".join(quantisations(family)),
        ", ".join(mesh_axes(family)),
        "; ".join(filter(None, notes)) or "-",
    )


def table() -> str:
    rows = [HEADER, ("---",) * len(HEADER), *map(row, FAMILIES.values())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


if __name__ == "__main__":
    print(table())
