"""The README's table of model families, made from the registry.

python docs/support_table.py
"""

from mft_jax.models.families import FAMILIES
from mft_jax.models.families.base import Family

HEADER = (
    "family (`model_type`)",
    "checkpoints",
    "checked against",
    "long context, limits",
)


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
        "; ".join(filter(None, notes)) or "-",
    )


def table() -> str:
    rows = [HEADER, ("---",) * len(HEADER), *map(row, FAMILIES.values())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


if __name__ == "__main__":
    print(table())
