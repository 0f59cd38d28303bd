"""Python source files: found, read, parsed, and cut into functions or into pieces of text.

Nothing is imported and nothing is run.
"""

from __future__ import annotations

import ast
import dataclasses
import io
import os
import textwrap
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path

from mft_jax.types import MftError

MIN_LINES, MAX_LINES = 2, 60
MAX_PIECE_CHARS = 6_000


@dataclasses.dataclass(frozen=True)
class Function:
    """One function, dedented. `header + docstring_lines + body` is its source, line for line.

    header           @decorators, `def name(...):`, comments up to the first statement
    docstring_lines  the docstring as written, "" if there is none
    body             the rest, at least one statement
    """

    module: str
    name: str
    line: int
    header: str
    docstring_lines: str
    body: str
    docstring: str

    @property
    def top_level_module(self) -> str:
        return self.module.partition(".")[0]

    @property
    def code(self) -> str:
        """The function without its docstring."""
        return self.header + self.body


def python_files(root: Path, skipped: set[str]) -> list[Path]:
    """The `.py` files under `root`, sorted, without those in folders with a name in `skipped`."""
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = set(inner) - skipped  # a skipped folder may hold ten times the files
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found)


def read_source(path: Path) -> str:
    """The text of a file, decoded by its coding line; every line ends with a newline only."""
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (SyntaxError, UnicodeDecodeError) as error:
        raise MftError(_unreadable(path, f"it does not decode ({error})")) from error


def parse_source(path: Path, text: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a user cannot change installed code
            return ast.parse(text)
    except SyntaxError as error:
        raise MftError(_unreadable(path, f"line {error.lineno}: {error.msg}")) from error


def _unreadable(path: Path, found: str) -> str:
    return (
        f"{path}: {found}; expected Python source for this interpreter; repair the installation "
        "it belongs to, or leave its package out of the source"
    )


def functions_of(module: str, text: str, tree: ast.Module) -> Iterator[Function]:
    """The functions and methods of a file, without those nested in functions."""
    lines = io.StringIO(text).readlines()
    pending: list[tuple[str, ast.stmt]] = [("", node) for node in reversed(tree.body)]
    while pending:
        prefix, node = pending.pop()
        if isinstance(node, ast.ClassDef):
            pending += [(f"{prefix}{node.name}.", child) for child in reversed(node.body)]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = _cut_function(module, prefix + node.name, lines, node)
            if function is not None:
                yield function


def _cut_function(
    module: str, name: str, lines: list[str], node: ast.FunctionDef | ast.AsyncFunctionDef
) -> Function | None:
    """The function, or None if it is too short or too long, or its parts share a line."""
    start, end = _first_line(node), node.end_lineno or 0
    docstring = ast.get_docstring(node) or ""
    header_end = _first_line(node.body[0])
    body_start = (node.body[0].end_lineno or 0) + 1 if docstring else header_end
    one_liner = header_end <= node.lineno or body_start > end
    shared_line = docstring and len(node.body) > 1 and _first_line(node.body[1]) < body_start
    if one_liner or shared_line or not MIN_LINES <= end - start + 1 <= MAX_LINES:
        return None
    source = "".join(lines[start - 1 : end]).rstrip() + "\n"
    dedented = io.StringIO(textwrap.dedent(source)).readlines()
    if dedented[0][0].isspace():  # a string literal begins further left than the function
        return None
    header, docstring_lines, body = (
        "".join(dedented[first - start : last - start])
        for first, last in ((start, header_end), (header_end, body_start), (body_start, end + 1))
    )
    return Function(module, name, start, header, docstring_lines, body, docstring)


def _first_line(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def split_source(text: str, tree: ast.Module) -> list[str]:
    """Pieces of at most MAX_PIECE_CHARS characters that join to `text`.

    Each piece is as long as it can be and ends before a top-level statement if it can, else before
    any statement, else at a line's end.
    """
    lines = io.StringIO(text).readlines()
    top_level = {_first_line(node) - 1 for node in tree.body}
    statements = {_first_line(node) - 1 for node in ast.walk(tree) if isinstance(node, ast.stmt)}
    pieces, start = [], 0
    while start < len(lines):
        end, size = start, 0
        while end < len(lines) and size + len(lines[end]) <= MAX_PIECE_CHARS:
            size += len(lines[end])
            end += 1
        if end == start:  # one line longer than a piece
            pieces.append(lines[start][:MAX_PIECE_CHARS])
            lines[start] = lines[start][MAX_PIECE_CHARS:]
            continue
        if end < len(lines):
            inside = range(end, start, -1)
            end = next((i for cuts in (top_level, statements) for i in inside if i in cuts), end)
        pieces.append("".join(lines[start:end]))
        start = end
    return pieces
