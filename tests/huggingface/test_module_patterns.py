r"""Patterns over module names: what PEFT matches with `re`, without `re`."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mft_jax.huggingface.module_patterns import parse_pattern

NAMES = [
    "q_proj", "model.layers.0.self_attn.q_proj", "model.layers.11.self_attn.q_proj", "lm_head",
    "model.layers.1.mlp.up_proj", "model.layers.21.mlp.experts.3.up_proj", "xq_proj", "",
]  # fmt: skip
# What PEFT's documentation, its tests and published adapters use.
PATTERNS = [
    "q_proj", "self_attn.q_proj", "model.layers.0.self_attn.q_proj", r"layers\.\d+\.self_attn",
    r"layers\.\d+\.self_attn\.q_proj", r".*\.up_proj", ".*up_proj", "^model.layers.1.mlp.up_proj",
    "^q_proj", "q_proj$", "q_proj|lm_head", "[0-9].mlp.up_proj", r"layers\.[12]\.mlp\.up_proj",
    r"layers\.[0-2]+\.mlp.*", r"experts.\d.up_proj", "model.+head|.*1.*", ".", "x*q_proj", "",
    r"\w+_proj", "[a-z_]+",
]  # fmt: skip


def peft(pattern, name):
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_what_peft_matches(pattern):
    parsed = parse_pattern(pattern)
    assert parsed is not None
    for name in NAMES:
        assert parsed.matches(name) == peft(pattern, name), name


@given(st.text("ab.\\*+|^$[-]d", max_size=8), st.text("ab.1", max_size=8))
def test_any_pattern_is_either_read_as_peft_does_or_refused(pattern, name):
    parsed = parse_pattern(pattern)
    if parsed is not None:
        assert parsed.matches(name) == peft(pattern, name)


@pytest.mark.parametrize(
    "pattern", ["(a|b)", "a{2}", "a?", r"\s", "(?=a)", "[^a]", "a++", "[", "a" * 1001, "é", "a b"]
)
def test_what_is_not_understood_is_refused(pattern):
    assert parse_pattern(pattern) is None


def test_a_pattern_that_takes_exponential_time_elsewhere_is_linear():
    pattern = parse_pattern("a*" * 30 + "b")
    assert pattern is not None
    start = time.process_time()
    assert not pattern.matches("a" * 200)
    assert time.process_time() - start < 1
