"""Families are data: an HF config read as capabilities, and one weight table read both ways."""

from mft_jax.models.families.base import Family
from mft_jax.models.families.llama import LLAMA
from mft_jax.models.families.qwen2 import QWEN2

FAMILIES: dict[str, Family] = {family.name: family for family in (LLAMA, QWEN2)}
