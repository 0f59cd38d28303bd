"""The baseline that is kept equals, to the last digit, the one that would be computed."""

import io

import jax
import numpy as np
import pytest
from rich.console import Console

from mft_jax.config import resolve
from mft_jax.kept import Kept
from mft_jax.run import baseline, parts, session
from mft_jax.run.display import Display
from mft_jax.types import MftError, TaskSums

pytestmark = pytest.mark.usefixtures("single_device", "shared_programs")


class Measured(MftError):
    """The run has gone far enough."""


def at_its_baseline(config, workdir, monkeypatch, examine):
    """Start a run, and call `examine(arguments of baseline.measure)` where it is measured."""

    def stop(*arguments):
        examine(*arguments)
        raise Measured

    monkeypatch.setattr(baseline, "measure", stop)
    with pytest.raises(Measured):
        session.train(resolve(config), workdir, Display(Console(file=io.StringIO())))


@pytest.fixture
def passes(monkeypatch) -> list[TaskSums]:
    """The full passes that were computed."""
    computed, full_pass = [], parts.full_pass

    def counted(*arguments):
        computed.append(full_pass(*arguments))
        return computed[-1]

    monkeypatch.setattr(parts, "full_pass", counted)
    return computed


def test_the_kept_baseline_is_the_computed_one(toy, tmp_path, monkeypatch, passes):
    measure, said = baseline.measure, []
    kept = Kept(tmp_path / "cache", 1 << 20, said.append)

    def examine(functions, trainable, frozen, data, mesh, none_kept):
        first, second = (measure(functions, trainable, frozen, data, mesh, kept) for _ in range(2))
        assert len(passes) == 1 and len(said) == 1 and "same program, weights and rows" in said[0]
        plain = measure(functions, trainable, frozen, data, mesh, none_kept)
        assert len(passes) == 2
        for other in (second, plain):
            assert other.first_batch_loss == first.first_batch_loss
            for ours, theirs in zip(first.sums, other.sums, strict=True):
                np.testing.assert_array_equal(ours, theirs, strict=True)
        changed = jax.tree.map(lambda leaf: leaf + 1e-3, trainable)
        moved = measure(functions, changed, frozen, data, mesh, kept)
        assert len(passes) == 3 and moved.first_batch_loss != first.first_batch_loss
        monkeypatch.setattr(baseline, "_around", lambda mesh: ["another machine"])
        measure(functions, trainable, frozen, data, mesh, kept)
        assert len(passes) == 4

    at_its_baseline(toy[0], tmp_path / "run", monkeypatch, examine)


def test_what_is_not_finite_is_not_kept(toy, tmp_path, monkeypatch, passes):
    measure = baseline.measure
    kept = Kept(tmp_path / "cache", 1 << 20, print)

    def examine(functions, trainable, frozen, data, mesh, none_kept):
        monkeypatch.setattr(parts, "first_batch_loss", lambda *_: np.inf)
        for _ in range(2):
            measure(functions, trainable, frozen, data, mesh, kept)
        assert len(passes) == 2 and not (tmp_path / "cache").exists()

    at_its_baseline(toy[0], tmp_path / "run", monkeypatch, examine)
