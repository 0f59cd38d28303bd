"""What the terminal says of the data: at 80 columns whole words, in a log file whole lines."""

import io

from rich.console import Console

from mft_jax.record.schema import Finding
from mft_jax.run.data_view import show_data_notes

READ_AS = {"a": "`text`", "b": "`prompt` -> `answer`; not read: `id`", "c": "`text`"}
TEXT = "1,000 steps are 112 epochs of its 20 samples, which will be learnt by heart; lower them"


def shown(findings, read_as=READ_AS, terminal=True):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, color_system=None)
    show_data_notes(console, read_as, findings)
    return console.file.getvalue().splitlines()


def test_a_terminal_gets_lines_that_break_between_words():
    lines = shown([Finding("epochs", "math_with_a_long_name", TEXT), Finding("x", None, TEXT)])
    assert max(map(len, lines)) <= 80
    assert lines[:5] == [
        "records read as",
        "  a, c: `text`",
        "  b: `prompt` -> `answer`; not read: `id`",
        "noticed before training",
        "- math_with_a_long_name: 1,000 steps are 112 epochs of its 20 samples, which",
    ]
    assert lines[5].startswith("  will be learnt")
    whole = " ".join(line.strip() for line in lines)
    assert f"- math_with_a_long_name: {TEXT} - {TEXT}" in whole


def test_a_log_file_gets_one_line_each():
    lines = shown([Finding("epochs", "math", TEXT)], terminal=False)
    assert lines[-1] == f"- math: {TEXT}"


def test_many_findings_are_cut_with_their_count_and_one_form_is_said_once():
    lines = shown([Finding("x", f"t{n}", "y") for n in range(30)], dict.fromkeys("ab", "`text`"))
    assert lines[:2] == ["records read as", "  all tasks: `text`"]
    assert len(lines) == 2 + 1 + 12 + 1 and "... and 18 more" in lines[-1]
    assert shown([], {}) == []
