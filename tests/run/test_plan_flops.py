"""Operations counted from shapes, against those that the compiler counts in the real step."""

import dataclasses

import jax
import pytest

from mft_jax.config import resolve
from mft_jax.models.config import Experts
from mft_jax.run.plan import absent_mesh, work_of
from mft_jax.run.plan_flops import BALANCER, RECOMPUTED, token_work, visible_keys
from mft_jax.run.plan_program import parse, product_flops
from mft_jax.run.plan_step import described, lowered
from mft_jax.sharding import make_mesh
from mft_jax.testing import toy_config


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A config of one row and its base, wide enough that products are most of the work."""
    settings = toy_config(tmp_path_factory.mktemp("toy"))
    settings.loop.rows_per_step = settings.loop.valid_rows = 1
    settings.loop.micro_batches = 1
    settings.data.row_length = 32
    settings.balancer.name = "uniform"
    settings.mesh.data, settings.mesh.fsdp, settings.mesh.tensor = 1, 1, 1
    settings.finetune.method = "lora"
    settings.model.remat, settings.model.attention = "block", "reference"
    settings.objective.loss_chunk = 32  # all positions: what the compiler counts once
    config = resolve(settings)
    base = described(config, lambda line: None)
    wide = dataclasses.replace(
        base.model_config, width=256, mlp_width=512, vocab_size=512, num_layers=2
    )
    return config, dataclasses.replace(base, model_config=wide)


def test_parts_add_up_to_the_products_of_the_compiled_step(planned):
    config, base = planned
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    compiled = lowered(config, base, mesh, limit=None).step.compile()
    work = work_of(config, base, config.data.row_length)
    length = config.data.row_length
    one = token_work(base, length, length)
    # A reference that computes scores of all pairs does not use that half of them are not seen.
    unseen = one.attention * length * (length / visible_keys(length) - 1)
    counted = product_flops(parse(compiled.as_text()))
    assert work.parts[BALANCER] == 0
    assert work.total <= 1.02 * counted and counted <= 1.1 * (work.total + 4 * unseen)
    assert compiled.cost_analysis()["flops"] <= 1.2 * counted


def test_useful_work_leaves_out_what_is_computed_again(planned):
    config, base = planned
    work = work_of(config, base, config.data.row_length)
    assert work.useful == pytest.approx(work.total - work.parts[RECOMPUTED] - work.parts[BALANCER])


def test_short_samples_make_attention_cheaper_and_nothing_else(planned):
    config, base = planned
    long, short = (work_of(config, base, length).parts for length in (32, 8))
    assert short["attention"] == pytest.approx(long["attention"] * 4.5 / 16.5)
    assert short["frozen forward"] == long["frozen forward"]


def test_a_token_meets_only_its_experts(planned):
    _, base = planned
    experts = dataclasses.replace(
        base.model_config, experts=Experts(num=8, per_token=2, width=64), tied_head=False
    )
    base = dataclasses.replace(base, model_config=experts)
    infos = base.infos.values()
    every = sum(2 * info.struct.size for info in infos if info.kind == "expert_matrix")
    others = sum(2 * info.struct.size for info in infos if info.kind == "matrix")
    assert token_work(base, 32, 32).matrices == pytest.approx(others + every * 2 / 8)


def test_a_balancers_passes_are_counted_as_often_as_it_measures(planned):
    config, base = planned
    coba = dataclasses.replace(config.balancer, name="coba")
    every = work_of(dataclasses.replace(config, balancer=coba), base, 32).parts[BALANCER]
    rare = dataclasses.replace(coba.coba, update_every_steps=4)
    fourth = dataclasses.replace(config, balancer=dataclasses.replace(coba, coba=rare))
    assert work_of(fourth, base, 32).parts[BALANCER] == pytest.approx(every / 4) and every > 0


def test_a_mesh_of_absent_devices_places_shapes(planned):
    config, _ = planned
    mesh = absent_mesh(dataclasses.replace(config.mesh, data=2, fsdp=64, tensor=8))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 64, "tensor": 8}
