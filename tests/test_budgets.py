"""Budgets of files, functions and loops: over budget means that a noun is missing. Each checker is
first shown a breach."""

import ast
import io
import re
import textwrap
import tokenize
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("mft_jax", "configs", "launch", "tests")
DEFAULT_LINES, LINES = 300, {"train_step.py": 150, "loop.py": 200}
CODE_LINES, CODE_LINES_WITH_REASON, LOOP_LINES = 50, 80, 30
REASON = re.compile(r"#\s*long because \w+")


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold code: not blank, not comment, not docstring."""
    lines: set[int] = set()
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in nothing and token.type != tokenize.ENDMARKER:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node) is not None:
                first = node.body[0]
                lines -= set(range(first.lineno, (first.end_lineno or 0) + 1))
    return lines


def span(nodes: Iterable[ast.stmt], code: set[int]) -> int:
    """How many code lines the nodes take together."""
    return sum(len(code & set(range(n.lineno, (n.end_lineno or 0) + 1))) for n in nodes)


def long_functions(source: str) -> list[str]:
    """Functions over budget. `# long because ...` above or inside a function raises it to 80."""
    code, lines, breaches = code_lines(source), source.splitlines(), []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            reason = REASON.search("\n".join(lines[max(0, node.lineno - 2) : node.end_lineno]))
            budget = CODE_LINES_WITH_REASON if reason else CODE_LINES
            if (length := span([node], code)) > budget:
                breaches.append(f"{node.lineno}: {node.name} has {length} of {budget} code lines")
    return breaches


def long_loops(source: str, function: str) -> list[str]:
    code, breaches, seen = code_lines(source), [], False
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            for loop in (n for n in ast.walk(node) if isinstance(n, ast.While | ast.For)):
                seen = True
                if (length := span(loop.body, code)) > LOOP_LINES:
                    breaches.append(f"{loop.lineno}: body of {length}, allowed are {LOOP_LINES}")
    return breaches if seen else [f"there is no loop in a function {function}"]


def long_file(name: str, source: str) -> list[str]:
    length, budget = len(source.splitlines()), LINES.get(name, DEFAULT_LINES)
    return [f"{length} of {budget} lines"] if length > budget else []


# The checkers catch what they should --------------------------------------------------------------


def function_of(code_lines: int, *, first: str = "pass") -> str:
    """A function with that many code lines and as many others."""
    return "\n".join(
        [
            "def f():",
            '    """Two',
            '    lines."""',
            f"    {first}",
            *["", "    # why", "    pass"] * (code_lines - 2),
        ]
    )


def loop_of(code_lines: int) -> str:
    return "\n".join(["def _loop():", "    while True:", *["        pass"] * code_lines])


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        (function_of(50), False),
        (function_of(51), True),
        (function_of(80, first="pass  # long because every line is a case"), False),
        (function_of(81, first="pass  # long because every line is a case"), True),
        (function_of(51, first="pass  # long because"), True),
        ("class A:\n" + textwrap.indent(function_of(51), "    "), True),
        ("x = 1\n" * 60, False),
    ],
)
def test_long_functions_catches(source, caught):
    assert bool(long_functions(source)) == caught


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        (loop_of(30), False),
        (loop_of(31), True),
        (loop_of(31).replace("while True", "for _ in x"), True),
        ("def _loop():\n    pass", True),
        (loop_of(30).replace("_loop", "other"), True),
    ],
)
def test_long_loops_catches(source, caught):
    assert bool(long_loops(source, "_loop")) == caught


@pytest.mark.parametrize(
    ("name", "lines", "caught"),
    [
        ("any.py", 300, False),
        ("any.py", 301, True),
        ("train_step.py", 150, False),
        ("train_step.py", 151, True),
        ("loop.py", 201, True),
    ],
)
def test_long_file_catches(name, lines, caught):
    assert bool(long_file(name, "pass\n" * lines)) == caught


# The budgets --------------------------------------------------------------------------------------


def breaches(check: Callable[[Path, str], list[str]]) -> list[str]:
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    assert paths
    return [
        f"{path.relative_to(ROOT).as_posix()}: {breach}"
        for path in paths
        for breach in check(path, path.read_text("utf-8"))
    ]


def test_functions_keep_their_budget():
    found = breaches(lambda path, source: long_functions(source))
    assert not found, "\n".join(found)


def test_files_keep_their_budget():
    found = breaches(lambda path, source: long_file(path.name, source))
    assert not found, "\n".join(found)


def test_loop_body_keeps_its_budget():
    loop = (ROOT / "mft_jax" / "run" / "loop.py").read_text("utf-8")
    assert long_loops(loop, "take_steps") == []
