"""Words in lines of a width: all are there, and none is broken."""

from hypothesis import given
from hypothesis import strategies as st

from mft_jax.run.words import GLUE, fit_words


@given(st.text("ab1, ./\n", max_size=90), st.integers(8, 40))
def test_wrapped_text_has_the_same_words_in_lines_that_fit(text, width):
    lines = fit_words(text, width).split("\n")
    assert [word for line in lines for word in line.split()] == text.split()
    assert all(len(line) <= width or len(line.split()) == 1 for line in lines)


def test_what_follows_a_label_stays_beside_it():
    line = f"validation  {f'add{GLUE}1.000'}  {f'echo{GLUE}2.000'}"
    assert fit_words(line, 24) == "validation  add 1.000\n            echo 2.000"
