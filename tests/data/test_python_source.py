"""Files cut into functions and pieces, character for character."""

import ast
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mft_jax.data.python_source import (
    MAX_PIECE_CHARS,
    functions_of,
    parse_source,
    python_files,
    read_source,
    split_source,
)
from mft_jax.types import MftError

SOURCE = textwrap.dedent('''\
    import os

    class Stack:
        @property
        # a comment between decorator and head
        def top(self):
            """The last item.

            Raises IndexError.
            """
            # why
            return self.items[-1]

        def one_liner(self): return 1

        def only_doc(self):
            """Nothing else."""

        class Inner:
            async def deep(
                self,
            ):
                def nested():
                    return 1
                return nested()

    def form_feed(x):
        y = "a\x0cb"
        return x
''')


def found(text):
    return {f.name: f for f in functions_of("m", text, ast.parse(text))}


def test_functions_are_cut_into_head_docstring_and_body():
    top = found(SOURCE)["Stack.top"]
    assert top.header == ("@property\n# a comment between decorator and head\ndef top(self):\n")
    assert top.docstring_lines == '    """The last item.\n\n    Raises IndexError.\n    """\n'
    assert top.body == "    # why\n    return self.items[-1]\n"
    assert top.docstring == "The last item.\n\nRaises IndexError."
    assert top.line == 4
    assert top.code == top.header + top.body


def test_one_liners_empty_and_nested_functions_are_left_out():
    assert set(found(SOURCE)) == {"Stack.top", "Stack.Inner.deep", "form_feed"}


def test_lines_end_only_at_newlines():
    assert found(SOURCE)["form_feed"].body == '    y = "a\x0cb"\n    return x\n'


def test_parts_join_to_a_function_that_parses():
    for function in found(SOURCE).values():
        ast.parse(function.header + function.docstring_lines + function.body)


@pytest.mark.parametrize(("body_lines", "kept"), [(1, True), (59, True), (60, False)])
def test_functions_have_two_to_sixty_lines(body_lines, kept):
    text = "def f():\n" + "    x = 1\n" * body_lines
    assert bool(found(text)) == kept


def test_a_string_that_reaches_left_of_the_function_leaves_it_out():
    text = 'class A:\n    def f(self):\n        return """\nleft\n"""\n'
    assert not found(text)


def test_pieces_end_before_top_level_statements():
    block = "def f():\n" + "    x = 1\n" * 250  # 2,509 characters
    pieces = split_source(block * 5, ast.parse(block * 5))
    assert pieces == [block * 2, block * 2, block]


def test_a_long_class_is_cut_before_a_statement():
    text = "class A:\n" + "    def f(self):\n        return (1 +\n            2)\n" * 300
    pieces = split_source(text, ast.parse(text))
    assert "".join(pieces) == text
    assert all(piece.lstrip().startswith(("class", "def", "return")) for piece in pieces)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9000), max_size=8))
def test_pieces_are_bounded_and_join_to_the_text(widths):
    text = "".join(f"x = '{'a' * width}'\n" for width in widths)
    pieces = split_source(text, ast.parse(text))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= MAX_PIECE_CHARS for piece in pieces)


def test_files_are_sorted_and_skip_folders(tmp_path):
    for name in ("b.py", "a.py", "tests/c.py", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [path.name for path in python_files(tmp_path, {"tests"})] == ["a.py", "b.py"]


def test_a_file_is_decoded_as_its_coding_line_says(tmp_path):
    file = tmp_path / "latin.py"
    file.write_bytes("# coding: latin-1\r\nname = 'é'\r\n".encode("latin-1"))
    assert read_source(file) == "# coding: latin-1\nname = 'é'\n"


@pytest.mark.parametrize("content", [b"x = '\xff'\n", b"# coding: no-such-code\n"])
def test_a_file_that_does_not_decode_is_an_error(tmp_path, content):
    file = tmp_path / "bad.py"
    file.write_bytes(content)
    with pytest.raises(MftError, match=r"bad\.py: it does not decode .*; expected"):
        read_source(file)


def test_a_file_that_does_not_parse_names_its_line(tmp_path):
    with pytest.raises(MftError, match=r"bad\.py: line 2: .*; expected Python source"):
        parse_source(tmp_path / "bad.py", "x = 1\ny = = 2\n")
