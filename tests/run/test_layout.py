"""Text and tables in a width: every word and every number stands on one line, whole."""

import io
import re

import pytest
from rich.console import Console

from mft_jax.run.layout import Column, Layout, WholeTable
from mft_jax.run.words import GLUE

COLUMNS = (Column("task", "name"), Column("trained on"), Column("dropped or cut", "words"))


def drawn(table, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("longest", [4, 60])
def test_no_word_or_number_of_a_table_is_broken(width, longest):
    columns = (Column("task", "name"), *[Column("trained on")] * 4, Column("left out", "words"))
    name = "a" * longest
    row = [name, *[f"{10**n:,}" for n in range(4, 8)], "53 dropped, 3 untrainable, 7 truncated"]
    text = drawn(WholeTable([Layout(columns, [row])]), width)
    words = re.findall(r"[\w,…]+", text)
    assert max(map(len, text.splitlines())) <= width
    for whole in (*row[1:-1], *row[-1].split(), "trained", "left"):
        assert whole in words, text
    assert (name in words) == (longest == 4)


def test_the_first_layout_with_room_is_taken():
    full = Layout(COLUMNS, [("a", "1,234,567", "-")])
    brief = Layout(COLUMNS, [("a", "1.23M", "-")])
    table = WholeTable([full, brief])
    assert "1,234,567" in drawn(table, 80) and "1.23M" not in drawn(table, 80)
    assert "1.23M" in drawn(table, 29) and "1,234,567" not in drawn(table, 29)


def test_names_are_shortened_in_their_middle_and_keep_their_end():
    rows = [(f"completion_of_python_functions_{n}", "1,234,567", "-") for n in range(2)]
    text = drawn(WholeTable([Layout(COLUMNS, rows)]), 40)
    assert re.findall(r"comp\w+…\w+([01])", text) == ["0", "1"]


def test_words_that_belong_together_stay_on_one_line():
    cell = f"53{GLUE}dropped, 3{GLUE}untrainable, 7{GLUE}truncated"
    text = drawn(WholeTable([Layout(COLUMNS, [("a", "1,234,567", cell)])]), 44)
    assert GLUE not in text and len(text.splitlines()) > 5
    assert all(words in text for words in ("53 dropped,", "3 untrainable,", "7 truncated"))
