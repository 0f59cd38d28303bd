"""The console of a run: a terminal is redrawn, everything else gets lines."""

import io

import pytest
from rich.console import Console

from mft_jax.run.console import is_terminal, read_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Notebook(Terminal):
    """As the stream of a notebook's kernel, which says that it is a terminal."""


Notebook.__module__ = "ipykernel.iostream"


@pytest.mark.parametrize(
    ("stream", "expected"), [(Terminal(), True), (Notebook(), False), (io.StringIO(), False)]
)
def test_only_what_can_be_redrawn_is_a_terminal(stream, expected):
    assert is_terminal(stream) is expected


def test_reading_weights_is_one_line_in_a_log_file():
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    with read_progress(console)("model") as on_bytes:
        on_bytes(500, 1000)
        on_bytes(1000, 1000)
    (line,) = console.file.getvalue().splitlines()
    assert line.startswith("read 1.0 kB of model in ")
