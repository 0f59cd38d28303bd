"""The parts of a start add up to what it took."""

import contextlib
import time

import pytest

from mft_jax import imports
from mft_jax.run.start_up import StartUp


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    imports.taken()
    return now


def test_parts_add_up_and_what_is_inside_another_counts_once(clock):
    with imports.timed():
        clock[0] += 2.0
    start = StartUp()
    shown: list[str] = []

    @contextlib.contextmanager
    def phase(what):
        shown.append(what)
        yield

    compiling = start.as_part("compiling", phase)
    with start.part("data"):
        clock[0] += 3.0
    with start.part("baseline"):
        clock[0] += 1.0
        with compiling("the validation pass"):
            clock[0] += 4.0
        clock[0] += 1.0
    with compiling("the training step"):
        clock[0] += 0.5
    clock[0] += 0.5
    assert shown == ["the validation pass", "the training step"]
    assert start.ready() == (
        "ready in 12.0 s: import 2.0, data 3.0, baseline 2.0, compiling 4.5, other 0.5"
    )


def test_imports_count_for_the_first_call_alone(clock):
    with imports.timed():
        clock[0] += 2.0
    assert StartUp().ready() == "ready in 2.0 s: import 2.0"
    assert imports.taken() == 0.0
