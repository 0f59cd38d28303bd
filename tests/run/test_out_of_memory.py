"""A full device: one message with numbers, and advice that can be followed."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from mft_jax.config import (
    DataConfig,
    FinetuneConfig,
    LoopConfig,
    TrainConfig,
    resolve,
    to_dict,
)
from mft_jax.model_source import ModelSource
from mft_jax.run.out_of_memory import advice, explained, export_remedy, needed, training_remedy
from mft_jax.run.parts import check_rows
from mft_jax.sharding import MeshConfig, make_mesh
from mft_jax.types import MftError


def test_an_allocation_that_fails_says_what_was_needed_and_what_there_is():
    config = TrainConfig(loop=LoopConfig(rows_per_step=16))
    # 2**62 bytes: no machine has them.
    with pytest.raises(MftError) as raised, explained(lambda: training_remedy(config)):
        jax.block_until_ready(jnp.zeros((1 << 30, 1 << 30), jnp.int32))
    text = str(raised.value)
    assert text.startswith("out of memory: ") and "4.6 EB" in text
    assert "uses the host's memory" in text and "loop.micro_batches=" in text
    assert len(text.splitlines()) == 4


def test_other_errors_of_a_device_pass_unchanged():
    error = jax.errors.JaxRuntimeError("INTERNAL: the device was lost")
    with pytest.raises(jax.errors.JaxRuntimeError, match="the device was lost"):
        with explained(export_remedy):
            raise error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 34359738368 bytes.\n...",
            "out of memory while trying to allocate 34.4 GB",
        ),
        (
            "Compile: RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
            "memory space hbm. Used 20.50G of 15.48G hbm. Exceeded hbm capacity by 5.02G.\n",
            "xLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.50G "
            "of 15.48G hbm. Exceeded hbm capacity by 5.02G",
        ),
        ("RESOURCE_EXHAUSTED", "an array did not fit"),
    ],
)
def test_the_needed_memory_is_what_the_compiler_or_allocator_said(text, words):
    assert needed(text).lower() == words.lower()


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig(finetune=FinetuneConfig(method="full"), model=ModelSource(remat="none")),
        TrainConfig(finetune=FinetuneConfig(method="lora"), mesh=MeshConfig(data=2, fsdp=-1)),
        TrainConfig(loop=LoopConfig(rows_per_step=24, micro_batches=1, valid_rows=24)),
        TrainConfig(loop=LoopConfig(micro_batches=1), data=DataConfig(row_length=8)),
    ],
    ids=lambda config: f"{config.finetune.method} {config.loop.rows_per_step}",
)
def test_the_advice_can_be_followed(config):
    mesh = make_mesh(config.mesh)
    found = advice(config)
    assert len(found) >= 3
    for settings, _ in found:
        changed = to_dict(config)
        for setting in settings.split():
            name, _, value = setting.partition("=")
            room, key = name.split(".")
            kind = type(changed[room][key])
            changed[room][key] = value == "true" if kind is bool else kind(value)
        followed = resolve(changed)
        assert followed != config
        check_rows(dataclasses.replace(followed), make_mesh(followed.mesh))
    assert mesh.size == jax.device_count()
