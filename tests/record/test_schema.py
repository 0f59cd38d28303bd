"""A line holds the keys of its kind and no others; titles and columns have one source."""

import dataclasses

import pytest

from mft_jax.record import schema


def test_a_line_begins_with_its_kind_and_keeps_the_order_given():
    line = schema.line(schema.END, step=3, reason="finished", seconds=1.5)
    assert list(line.items()) == [
        ("kind", "end"), ("step", 3), ("reason", "finished"), ("seconds", 1.5),
    ]  # fmt: skip


@pytest.mark.parametrize("change", [{"seconds": ...}, {"minutes": 2}])
def test_a_line_with_another_key_or_without_one_is_refused(change):
    values = {"step": 3, "reason": "finished", "seconds": 1.5, **change}
    with pytest.raises(AssertionError, match="end"):
        schema.line(schema.END, **{key: value for key, value in values.items() if value is not ...})


def test_every_count_of_a_task_has_a_column():
    assert list(schema.COLUMNS) == [field.name for field in dataclasses.fields(schema.TaskCounts)]


def test_an_epoch_has_a_column_where_it_is_not_every_sample_once():
    once = schema.TaskCounts(*[5] * len(schema.COLUMNS))
    more = dataclasses.replace(once, epoch_samples=9)
    assert "epoch_samples" not in schema.data_columns({"a": once})
    assert schema.data_columns({"a": once, "b": more}) == list(schema.COLUMNS)
