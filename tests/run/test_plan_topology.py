"""The devices of a plan by their names, and what a wrong name is answered with."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from mft_jax.run import plan_topology
from mft_jax.run.plan_chips import TPUS, local_chip
from mft_jax.run.plan_topology import parse
from mft_jax.types import MftError


@pytest.fixture
def with_libtpu(monkeypatch):
    monkeypatch.setattr(plan_topology.importlib.util, "find_spec", lambda name: True)


def test_every_slice_that_can_be_rented_is_known(with_libtpu):
    for kind, chip in TPUS.items():
        for shape in chip.shapes:
            assert parse(f"{kind}:{shape}").name == f"{kind}:{shape}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v5e-16", "'v5e:4x4'"),
        ("v5litepod-8", "'v5e:2x4'"),
        ("v6:4x4", "did you mean 'v6e:4x4'"),
        ("v5e", "no shape after the colon"),
        ("v5e:4x4x4", "v5e has 2 axes"),
        ("v4:2x2", "v4 has 3 axes"),
        ("v5e:0x4", "no shape"),
        ("cpu", "cpu:8"),
        ("Local", "'local'"),
        ("h100", "expected one such as"),
    ],
)
def test_an_unknown_topology_names_the_nearest(with_libtpu, name, words):
    with pytest.raises(MftError) as raised:
        parse(name)
    assert words in str(raised.value)


def test_without_the_tpus_compiler_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(plan_topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MftError, match=r"pip install -e '\.\[tpu\]'"):
        parse("v5e:4x4")


def test_a_gpu_is_known_by_its_drivers_name():
    assert local_chip("NVIDIA H200", 139.0).tflops == 989
    assert local_chip("Another", 1.0).tflops == 0 and local_chip("Another", 1.0).memory_gib == 1


def stated_limits() -> dict[str, float]:
    """GiB that the TPU's compiler states for each kind, and the devices of a chip."""
    import jax

    from mft_jax.run.plan_compiled import exhausted

    found = {}
    for kind, chip in TPUS.items():
        devices = parse(f"{kind}:{chip.shapes[0]}").devices()
        where = jax.sharding.SingleDeviceSharding(devices[0])
        huge = jax.ShapeDtypeStruct((2**20, 2**20), "bfloat16", sharding=where)
        try:
            jax.jit(lambda x: x * 2).lower(huge).compile()
        except jax.errors.JaxRuntimeError as error:
            found[kind] = [exhausted(str(error))[1] / 2**30, len(devices)]
    return found


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu is not installed")
def test_the_memory_of_a_chip_is_what_its_compiler_states():
    env = {**os.environ, **parse("v5e:2x2").environment}
    done = subprocess.run([sys.executable, __file__], env=env, stdout=subprocess.PIPE, check=True)
    stated = json.loads(done.stdout.splitlines()[-1])
    assert stated == {kind: [chip.memory_gib, chip.per_chip] for kind, chip in TPUS.items()}


if __name__ == "__main__":
    print(json.dumps(stated_limits()))
