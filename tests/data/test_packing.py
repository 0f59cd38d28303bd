import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mft_jax.data.packing import empty_rows, fill_row, pack, padding_report

some_lengths = st.lists(st.integers(1, 64), max_size=60).map(lambda x: np.array(x, int))


def rng(seed=0):
    return np.random.default_rng(seed)


@given(some_lengths, st.integers(0, 5))
def test_every_sample_is_in_exactly_one_row_and_no_row_overflows(lengths, seed):
    rows = pack(lengths, 64, rng(seed))
    assert sorted(np.concatenate([[], *rows])) == list(range(len(lengths)))
    assert all(len(row) and lengths[row].sum() <= 64 for row in rows)


@given(some_lengths, st.integers(0, 5))
def test_the_number_of_rows_does_not_depend_on_the_rng(lengths, seed):
    assert len(pack(lengths, 64, rng(seed))) == len(pack(lengths[::-1], 64, rng(seed + 1)))


@given(some_lengths)
def test_best_fit_leaves_no_two_rows_that_would_fit_into_one(lengths):
    filled = sorted(lengths[row].sum() for row in pack(lengths, 64, rng()))
    assert len(filled) < 2 or filled[0] + filled[1] > 64


def test_each_sample_goes_into_the_fullest_row_with_room():
    rows = pack(np.array([6, 5, 4, 3, 2]), 10, rng())
    assert sorted(sorted(row) for row in rows) == [[0, 2], [1, 3, 4]]


def test_the_same_rng_gives_the_same_rows_and_another_one_others():
    lengths = rng().integers(1, 64, 500)
    same, again, other = (pack(lengths, 64, rng(seed)) for seed in (1, 1, 2))
    assert all(map(np.array_equal, same, again))
    assert not all(map(np.array_equal, same, other))


def test_log_normal_lengths_fill_97_percent_of_positions_quickly():
    lengths = np.clip(rng().lognormal(5, 0.9, 60_000).astype(int), 2, 2048)
    start = time.perf_counter()
    rows = pack(lengths, 2048, rng())
    seconds = time.perf_counter() - start
    assert lengths.sum() / (2048 * len(rows)) >= 0.97
    assert seconds < 5  # well under a second on an idle machine


@pytest.mark.parametrize("lengths", [[3, 9], [0, 3]])
def test_a_length_that_no_row_can_hold_is_an_error(lengths):
    with pytest.raises(ValueError, match="must be 1 to 8"):
        pack(np.array(lengths), 8, rng())


def test_the_aligned_picture_of_a_row():
    row = fill_row(
        tokens=[np.array([11, 12, 13, 14]), np.array([21, 22, 23])],
        loss_weights=[np.array([0, 0, 1, 1.0]), np.array([0, 0, 1.0])],
        task_ids=[2, 0],
        row_length=8,
    )
    pictures = {
        "tokens": [11, 12, 13, 14, 21, 22, 23, 0],
        "targets": [12, 13, 14, 0, 22, 23, 0, 0],
        "positions": [0, 1, 2, 3, 0, 1, 2, 0],
        "segment_ids": [1, 1, 1, 1, 2, 2, 2, 0],
        "task_ids": [2, 2, 2, 2, 0, 0, 0, 0],
        "loss_weights": [0, 1, 1, 0, 0, 1, 0, 0],
    }
    for name, expected in pictures.items():
        leaf = getattr(row, name)
        np.testing.assert_array_equal(leaf, expected, err_msg=name)
        assert leaf.dtype == (np.float32 if name == "loss_weights" else np.int32)


@given(st.lists(st.integers(1, 12), max_size=5), st.integers(0, 3))
def test_no_segment_takes_anything_from_its_neighbours(lengths, spare):
    samples = [np.arange(n) + 100 * (i + 1) for i, n in enumerate(lengths)]
    weights = [np.arange(n) % 2.0 for n in lengths]
    length = sum(lengths) + spare
    row = fill_row(samples, weights, list(range(len(lengths))), length)
    for i, (sample, weight) in enumerate(zip(samples, weights, strict=True)):
        mine = row.segment_ids == i + 1
        np.testing.assert_array_equal(row.tokens[mine], sample)
        np.testing.assert_array_equal(row.positions[mine], np.arange(len(sample)))
        np.testing.assert_array_equal(row.targets[mine][:-1], sample[1:])
        np.testing.assert_array_equal(row.loss_weights[mine], [*weight[1:], 0])
        assert set(row.task_ids[mine]) == {i}
    padding = row.segment_ids == 0
    assert padding.sum() == spare and not row.loss_weights[padding].any()


def test_segments_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match="segments of 9 tokens"):
        fill_row([np.arange(9)], [np.zeros(9)], [0], 8)


def test_empty_rows_are_only_padding():
    rows = empty_rows((2, 3))
    assert all(leaf.shape == (2, 3) and not leaf.any() for leaf in rows)


def test_padding_report_by_hand():
    report = padding_report(np.array([4, 4, 4, 4]), row_length=8, batch_rows=2)
    assert (report.packed, report.static, report.dynamic) == (1.0, 0.5, 1.0)
    report = padding_report(np.array([6, 2]), row_length=8, batch_rows=2)
    assert (report.packed, report.static, report.dynamic) == (1.0, 0.5, 8 / 12)
