"""Fewer points, lighter noise, round ticks, short numbers."""

import math

import numpy as np
import pytest

from mft_jax.report import series


def test_smoothing_keeps_constants_lines_and_the_first_value():
    line = np.linspace(3.0, 1.0, 600)
    smoothed = series.smooth(line)
    np.testing.assert_allclose(series.smooth(np.full(600, 2.5)), 2.5)
    np.testing.assert_allclose(smoothed[:-10], line[:-10])
    assert smoothed[0] == line[0]
    noisy = line + np.random.default_rng(0).normal(0, 0.2, 600)
    assert np.std(series.smooth(noisy) - line) < 0.4 * np.std(noisy - line)


def test_few_observations_are_not_smoothed():
    y = np.arange(10.0) % 3
    np.testing.assert_array_equal(series.smooth(y), y)


@pytest.mark.parametrize("length", [1, 2, 599, 600, 601, 1200, 100_000])
def test_thinning_keeps_the_ends_and_the_limit(length):
    x = np.arange(float(length))
    thin_x, thin_y = series.thin(x, 2 * x, 600)
    assert len(thin_x) == min(length, 600)
    assert (thin_x[0], thin_x[-1]) == (x[0], x[-1])
    np.testing.assert_allclose(thin_y, 2 * thin_x)
    assert (np.diff(thin_x) > 0).all()


def test_an_envelope_keeps_a_lone_spike_where_it_was():
    y = np.zeros(50_000)
    y[12_345] = 7.0
    x, kept = series.envelope(np.arange(50_000.0), y, 600)
    assert len(x) <= 600 and x[kept.argmax()] == 12_345 and kept.max() == 7.0
    assert (np.diff(x) > 0).all()


@pytest.mark.parametrize("low", [-8.7e-3, 0.0, 0.4, 1234.0])
@pytest.mark.parametrize("span", [1e-6, 0.3, 1.0, 99.0, 1e7])
def test_ticks_are_round_inside_and_neither_few_nor_many(low, span):
    ticks = series.ticks(low, low + span, 6)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] >= low - 1e-9 * span and ticks[-1] <= low + span * (1 + 1e-9)
    labels = series.tick_labels(ticks)
    assert span < 1e-3 or len(set(labels)) == len(labels)


def test_tick_labels_share_their_decimals():
    assert series.tick_labels([0.0, 0.25, 0.5]) == ["0.00", "0.25", "0.50"]
    assert series.tick_labels([0.0, 20_000.0, 40_000.0]) == ["0", "20k", "40k"]
    assert series.tick_labels([0.0, 0.00002, 0.00004]) == ["0", "2e-5", "4e-5"]
    assert series.tick_labels([0.0, 0.00005, 0.0001]) == ["0", "0.5e-4", "1e-4"]


def test_numbers_are_short_and_absence_is_a_dash():
    assert [series.count(v) for v in (0.0, 9_999.0, 12_345.0, 3.86e6, -12_345.0)] == [
        "0", "9,999", "12.3k", "3.86M", "-12.3k",
    ]  # fmt: skip
    assert series.duration(201.3) == "3 min 21 s" and series.duration(7500.0) == "2 h 5 min"
    assert series.size(3_250_586.0) == "3.1 MiB" and series.percent(0.985) == "98.5%"
    shows = (series.count, series.fixed, series.percent, series.duration, series.size)
    assert [show(math.nan) for show in shows] == ["–"] * 5
