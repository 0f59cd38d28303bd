"""The console of a run: a terminal is redrawn, everything else gets lines."""

import io
import re

import pytest
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mft_jax.run.console import VisibleConsole, is_terminal, read_progress, sayer


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


def test_only_the_consoles_own_codes_reach_a_terminal():
    foreign = "a\x1b[2Jb\x1b]0;title\x07c\rd\x9be\u202ef[/x]"
    console = VisibleConsole(file=Terminal(), force_terminal=True, width=200, markup=False)
    table = Table("task")
    table.add_row(foreign)
    sayer(console)(f"plain {foreign}")
    console.print(table, Text(foreign, style="bold red"), Group(foreign))
    with Live(Text(foreign), console=console), console.status("reading"):
        pass
    with read_progress(console)(foreign) as on_bytes:
        on_bytes(1, 1)
    shown = console.file.getvalue()
    assert "\x1b[" in shown  # rich's own
    left = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown)
    assert set(re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", left)) <= {"\r"}
    for word in ("[2Jb", "]0;title"):
        assert re.search(rf"\x1b{re.escape(word)}", shown) is None
        assert shown.count(r"\x1b" + word) == shown.count(word) >= 4
