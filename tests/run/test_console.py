"""The console of a run: a terminal is redrawn, everything else gets lines."""

import io
import re

import pytest
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mft_jax.data.progress import Work
from mft_jax.run import console as consoles
from mft_jax.run.console import (
    VisibleConsole,
    is_terminal,
    read_progress,
    sayer,
    task_progress,
)


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


def test_a_line_is_wrapped_between_words_on_a_terminal_and_left_whole_in_a_log_file():
    words = " ".join(["expected"] * 20)
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
        sayer(console)(words)
        lines = console.file.getvalue().splitlines()
        assert " ".join(lines).split() == words.split()
        assert (max(map(len, lines)) <= 80) == terminal


WORK = [
    Work("a_long_name_of_some_task_in_python", 1, 100, "reading", 2048, None, 0.0),
    Work("echo", 100, 100, "tokenizing", 1024, 4096, 0.25),
]


def test_reading_and_tokenizing_name_task_count_and_time_left(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=False, width=80)
    now = iter([0.0, *[60.0] * 2, *[120.0] * 9])
    monkeypatch.setattr(consoles.time, "monotonic", lambda: next(now))
    with task_progress(console)() as on_work:
        for work in WORK:
            on_work(work)
    assert console.file.getvalue().splitlines() == [
        "reading a_long_name_…k_in_python (1/100): 2,048 records, ETA -:--",
        "tokenizing echo (100/100): 1,024 of 4,096 samples, ETA 6:00",
        "read and tokenized 4,096 samples of 1 task in 2 min 0 s",
    ]


@pytest.mark.parametrize("width", [80, 100])
def test_the_bar_of_tasks_fits_the_terminal(width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with task_progress(console)() as on_work:
        for work in WORK:
            on_work(work)
    shown = console.file.getvalue().replace("\x1b", "\n").splitlines()
    assert max(map(len, shown)) <= width + 4  # "[2K" is part of a piece


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
