"""A listing of CPython bytecode, the same text in every process."""

from __future__ import annotations

import dis
import inspect
import types

_JUMPS = frozenset(dis.hasjrel + dis.hasjabs)
_SILENT = {"CACHE", "RESUME", "PRECALL", "NOP", "EXTENDED_ARG"}  # tell nothing about the source


def bytecode_listing(code: types.CodeType) -> str:
    """Operations in small letters with their arguments, labels at jump targets, inner code last.

        code f(x, *rest):
        load_fast x
        pop_jump_forward_if_false L1
        ...
        L1:
        load_const 0

    Offsets, line numbers and exception tables are left out.
    """
    instructions = list(dis.get_instructions(code))
    targets = {i.argval for i in instructions if i.opcode in _JUMPS}
    labels = {target: f"L{n}" for n, target in enumerate(sorted(targets), start=1)}
    lines = [f"code {code.co_name}({', '.join(_parameters(code))}):"]
    for instruction in instructions:
        if instruction.offset in labels:
            lines.append(f"{labels[instruction.offset]}:")
        if instruction.opname not in _SILENT:
            is_jump = instruction.opcode in _JUMPS
            argument = labels[instruction.argval] if is_jump else _argument(instruction, code)
            lines.append(f"{instruction.opname.lower()} {argument}".rstrip())
    nested = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return "\n".join(lines + [bytecode_listing(const) for const in nested])


def _parameters(code: types.CodeType) -> list[str]:
    """The parameters as written, without annotations, defaults and a bare `*` or `/`."""
    named = code.co_argcount + code.co_kwonlyargcount
    parameters = list(code.co_varnames[:named])
    if code.co_flags & inspect.CO_VARKEYWORDS:
        has_rest = bool(code.co_flags & inspect.CO_VARARGS)
        parameters.append(f"**{code.co_varnames[named + has_rest]}")
    if code.co_flags & inspect.CO_VARARGS:
        parameters.insert(code.co_argcount, f"*{code.co_varnames[named]}")
    return parameters


def _argument(instruction: dis.Instruction, code: types.CodeType) -> str:
    """The argument without addresses and the order of sets, which differ between processes."""
    if isinstance(instruction.argval, types.CodeType):
        return f"<code {instruction.argval.co_name}>"
    if isinstance(instruction.argval, frozenset):
        return f"frozenset({{{', '.join(sorted(map(repr, instruction.argval)))}}})"
    if instruction.argrepr or instruction.arg is None:
        return instruction.argrepr
    if instruction.opname == "KW_NAMES":  # CPython 3.11 and 3.12 leave it unresolved
        return repr(code.co_consts[instruction.arg])
    return str(instruction.arg)
