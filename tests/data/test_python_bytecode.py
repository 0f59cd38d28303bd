"""Bytecode listings are the same in every process and describe the source."""

import os
import re
import subprocess
import sys

import pytest

from mft_jax.data.python_bytecode import bytecode_listing

SOURCE = """
def f(a, *rest, key, **others):
    for item in rest:
        if item in {'x', 'y', 'z', 'w'}:
            a.call(item, name=key)
    return lambda: a
"""


def listing(source):
    return bytecode_listing(compile(source, "<test>", "exec", dont_inherit=True, optimize=0))


def test_a_listing_names_parameters_calls_and_inner_code():
    text = listing(SOURCE)
    assert "code f(a, *rest, key, **others):" in text
    assert "load_const <code f>" in text and "load_const <code <lambda>>" in text
    assert "frozenset({'w', 'x', 'y', 'z'})" in text
    assert "('name',)" in text


@pytest.mark.parametrize(
    "source", [SOURCE, "async def f(x):\n    async with x:\n        await x\n    yield 1\n"]
)
def test_every_jump_has_its_label_and_every_label_a_jump(source):
    for block in re.split(r"^code ", listing(source), flags=re.MULTILINE):
        used = set(re.findall(r" (L\d+)$", block, re.MULTILINE))
        assert used == set(re.findall(r"^(L\d+):$", block, re.MULTILINE))


def test_different_calls_have_different_listings():
    assert listing("f(1, 2)") != listing("f(1)(2)")
    assert listing("[a, b]") != listing("(a, b)")


def test_a_listing_does_not_change_from_process_to_process():
    script = (
        "from mft_jax.data.python_bytecode import bytecode_listing\n"
        f"print(bytecode_listing(compile({SOURCE!r}, '<test>', 'exec')))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2", "3")
    }
    assert len(outputs) == 1
    assert "0x" not in outputs.pop()
