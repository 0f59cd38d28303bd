"""The checks of a run that need no model: rows fit the mesh."""

import pytest

from mft_jax import config as configs
from mft_jax.run.parts import check_rows
from mft_jax.sharding import make_mesh
from mft_jax.types import MftError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows_per_step": 6}, r"loop\.rows_per_step=6 must be a positive multiple of 8"),
        ({"valid_rows": 12}, r"loop\.valid_rows=12 must be a positive multiple of 8"),
        ({"micro_batches": 2}, r"loop\.rows_per_step=8 must be a positive multiple of 16"),
    ],
)
def test_rows_that_the_mesh_does_not_divide_are_refused(settings, message):
    config = configs.default()
    config.loop.update(settings)
    config.mesh.update({"data": 4, "fsdp": 2})
    config = configs.resolve(config)
    with pytest.raises(MftError, match=message):
        check_rows(config, make_mesh(config.mesh))
