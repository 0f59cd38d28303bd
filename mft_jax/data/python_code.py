"""Records from the Python code of every machine, which is read with `ast` and never imported.

    stdlib:completion        function prefix -> the rest of the function
    stdlib:text2code         signature and docstring -> body
    stdlib:comment           function without its docstring -> first docstring paragraph
    stdlib:unit_test         function with a prose docstring -> its doctest examples
    stdlib:translation       bytecode listing -> source
    packages:NAME,NAME:text  all `.py` files of installed packages, as plain text

The five tasks read the same functions of the running interpreter's standard library: 2 to 60 lines,
prompt and answer together at most 4,000 characters, functions that differ only in their docstring
once. Train and valid are split by top-level module, the same way for every task, so no function is
on both sides. Records depend only on the interpreter version, the spec, the split and the seed.

Skipped in the library: tests and their fixtures (all files that are meant not to decode or parse
are there), encoding tables, documentation data. Skipped in packages: tests, vendored code, files
above 400 kB. Any other file that cannot be read is an error.
"""

from __future__ import annotations

import ast
import doctest
import functools
import hashlib
import importlib.util
import inspect
import io
import sysconfig
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from mft_jax.data.python_bytecode import bytecode_listing
from mft_jax.data.python_source import (
    Function,
    functions_of,
    parse_source,
    python_files,
    read_source,
    split_source,
)
from mft_jax.types import MftError

Split = Literal["train", "valid"]
MAX_RECORD_CHARS = 4_000
MAX_FILE_BYTES = 400_000
MIN_VALID_RECORDS = 10
STDLIB_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings"}
STDLIB_SKIPPED |= {"__pycache__", "lib-dynload", "pydoc_data", "_bundled"}
PACKAGE_SKIPPED = {"test", "tests", "testdata", "test_data", "testing", "__pycache__"}
PACKAGE_SKIPPED |= {"_vendor", "vendor", "vendored", "third_party", "node_modules", "site-packages"}


def python_records(spec: str, split: Split, seed: int) -> list[dict[str, str]]:
    """Records of one task: `{"prompt", "answer", "id", "lang"}`, or `{"text", "id"}` for packages.

    Raises `MftError` for an unknown spec, a missing package and a file that cannot be read.
    """
    kind, _, rest = spec.partition(":")
    if kind == "stdlib" and rest in _TASKS:
        return _stdlib_records(rest, split, seed)
    names, _, form = rest.partition(":")
    if kind == "packages" and form == "text" and names:
        return _package_records(names.split(","), split, seed)
    valid = ", ".join(f"stdlib:{name}" for name in _TASKS)
    raise MftError(
        f"unknown Python code source {spec!r}; expected one of {valid}, or "
        "packages:NAME,NAME:text with names of installed packages; correct the path"
    )


def python_source_files(spec: str) -> tuple[tuple[str, Path], ...]:
    """Names and places of all files that the records of a spec follow from."""
    kind, _, rest = spec.partition(":")
    if kind == "stdlib":
        return _stdlib_files()
    names = rest.partition(":")[0].split(",")
    return tuple((where, path) for name in names for path, where in _package_files(name))


@functools.cache
def _stdlib_files() -> tuple[tuple[str, Path], ...]:
    root = Path(sysconfig.get_path("stdlib"))
    files = python_files(root, STDLIB_SKIPPED)
    return tuple((path.relative_to(root).as_posix(), path) for path in files)


# -- the standard library as five tasks


def _stdlib_records(task: str, split: Split, seed: int) -> list[dict[str, str]]:
    valid_modules = _valid_modules(seed)
    make = _TASKS[task]
    records = []
    for function in _stdlib_functions():
        if (function.top_level_module in valid_modules) != (split == "valid"):
            continue
        pair = make(function)
        if pair is None or sum(map(len, pair)) > MAX_RECORD_CHARS:
            continue
        prompt, answer = pair[0].rstrip(), pair[1]
        name = f"{function.module}:{function.name}:{function.line}"
        records.append({"prompt": prompt, "answer": answer, "id": name, "lang": "python"})
    return records


@functools.cache
def _valid_modules(seed: int) -> frozenset[str]:
    """About a tenth of the library, as top-level modules in a seeded order.

    Modules with doctest examples are drawn first and counted in examples, since they are few: a
    plain tenth of all modules would often leave `unit_test` without validation.
    """
    functions, examples = Counter[str](), Counter[str]()
    for function in _stdlib_functions():
        functions[function.top_level_module] += 1
        if _unit_test(function) is not None:
            examples[function.top_level_module] += 1
    drawn = _draw(examples, max(MIN_VALID_RECORDS, examples.total() // 10), seed)
    others = Counter({name: n for name, n in functions.items() if name not in examples})
    wanted = functions.total() // 10 - sum(functions[name] for name in drawn)
    return drawn | _draw(others, wanted, seed)


def _draw(sizes: Counter[str], wanted: int, seed: int) -> frozenset[str]:
    """Modules in seeded order until their sizes reach `wanted`, without those that would exceed 5/4
    of it."""
    drawn: set[str] = set()
    count = 0
    for module in sorted(sizes, key=lambda name: _hash(seed, name)):
        if count < wanted and count + sizes[module] <= wanted * 5 // 4:
            drawn.add(module)
            count += sizes[module]
    return frozenset(drawn)


def _hash(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")


@functools.cache
def _stdlib_functions() -> tuple[Function, ...]:
    found: dict[str, Function] = {}
    for name, path in _stdlib_files():
        module = name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        text = read_source(path)
        for function in functions_of(module, text, parse_source(path, text)):
            found.setdefault(function.code, function)
    if not found:
        raise MftError(
            f"no Python source in the standard library at {sysconfig.get_path('stdlib')}; "
            "expected `.py` files; use an interpreter that is installed with its sources"
        )
    return tuple(found.values())


# -- one function -> (prompt, answer), or None where the task does not apply


def _completion(function: Function) -> tuple[str, str] | None:
    body = io.StringIO(function.body).readlines()
    if len(body) < 3:
        return None
    kept = len(body) // 3
    prefix = function.header + function.docstring_lines + "".join(body[:kept])
    return f"Complete this Python function.\n{prefix}", "".join(body[kept:]).rstrip()


def _text2code(function: Function) -> tuple[str, str] | None:
    if not function.docstring:
        return None
    prefix = function.header + function.docstring_lines
    return f"Write the body of this Python function.\n{prefix}", function.body.rstrip()


def _comment(function: Function) -> tuple[str, str] | None:
    paragraph = function.docstring.strip().partition("\n\n")[0]
    if not paragraph or ">>>" in paragraph:
        return None
    return f"Describe this Python function.\n{function.code}", paragraph


def _unit_test(function: Function) -> tuple[str, str] | None:
    if ">>>" not in function.docstring:
        return None
    try:
        parts = doctest.DocTestParser().parse(function.docstring)
    except ValueError:  # prose that looks like a prompt, not examples
        return None
    examples = [part for part in parts if isinstance(part, doctest.Example)]
    prose = inspect.cleandoc("".join(part for part in parts if isinstance(part, str))).strip()
    if not examples:
        return None
    indent = function.body[: len(function.body) - len(function.body.lstrip())].rpartition("\n")[2]
    prose = prose.replace("\\", "\\\\").replace('"""', r"\"\"\"")
    docstring = textwrap.indent(f'"""{prose}\n"""\n', indent) if prose else ""
    code = function.header + docstring + function.body
    answer = "\n".join(map(_example_text, examples))
    return f"Write doctests for this Python function.\n{code}", answer


def _example_text(example: doctest.Example) -> str:
    """The example as written in a docstring, without indentation."""
    first, *others = example.source.rstrip("\n").split("\n")
    lines = [f">>> {first}", *(f"... {line}".rstrip() for line in others)]
    wanted = ["<BLANKLINE>" if line.isspace() else line for line in example.want.splitlines()]
    return "\n".join(lines + wanted)


def _translation(function: Function) -> tuple[str, str] | None:
    """The bytecode listing and the source in its canonical form, from which it is compiled: CPython
    3.13 fuses instructions of one line, so the bytecode depends on the layout."""
    if len(function.code) > MAX_RECORD_CHARS // 4:  # its listing would not fit
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a user cannot change the library
        answer = ast.unparse(ast.parse(function.code))
        code = compile(answer, "<function>", "exec", dont_inherit=True, optimize=0)
    prompt = f"Translate this CPython bytecode into Python source.\n{bytecode_listing(code)}"
    return prompt, answer


_TASKS: dict[str, Callable[[Function], tuple[str, str] | None]] = {
    "completion": _completion,
    "text2code": _text2code,
    "comment": _comment,
    "unit_test": _unit_test,
    "translation": _translation,
}


# -- files


def _package_records(names: list[str], split: Split, seed: int) -> list[dict[str, str]]:
    """The pieces of all files; one file in fifty, at least one, is for validation."""
    files: dict[str, tuple[str, Path]] = {}  # by text: identical files count once
    for name in names:
        for path, where in _package_files(name):
            text = read_source(path) if path.stat().st_size <= MAX_FILE_BYTES else ""
            if text.strip():
                files.setdefault(text, (where, path))
    if len(files) < 2:
        raise MftError(
            f"packages:{','.join(names)}:text has {len(files)} file(s) of Python code; expected at "
            "least 2, one to train on and one to validate on; name more packages"
        )
    by_hash = sorted(files, key=lambda text: _hash(seed, files[text][0]))
    valid = set(by_hash[: max(1, len(files) // 50)])
    records = []
    for text, (where, path) in files.items():
        if (text in valid) == (split == "valid"):
            pieces = split_source(text, parse_source(path, text))
            records += [{"text": t, "id": f"{where}:{n}"} for n, t in enumerate(pieces)]
    return records


def _package_files(name: str) -> list[tuple[Path, str]]:
    """The files of an installed package or module, sorted, each with `name/inner/file.py`."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not (spec.submodule_search_locations or spec.has_location):
        raise MftError(
            f"package {name!r} of a packages: source is not installed (expected the name it is "
            f"imported by); install it (`pip install {name}`) or remove it from the list"
        )
    if not spec.submodule_search_locations:
        return [(Path(str(spec.origin)), f"{name}.py")]
    roots = sorted(map(Path, spec.submodule_search_locations))
    return [
        (path, f"{name}/{path.relative_to(root).as_posix()}")
        for root in roots
        for path in python_files(root, PACKAGE_SKIPPED)
        if not (path.name.startswith("test_") or path.stem.endswith("_test"))
    ]
