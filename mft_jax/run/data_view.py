"""What the terminal says of the data beside its table: what records were taken for, and findings.

On a terminal lines are broken between words; elsewhere each stays one line, for `grep`.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console

from mft_jax.record.schema import Finding

MOST_FINDINGS = 12  # the report has them all


def show_data_notes(
    console: Console, read_as: Mapping[str, str], findings: Sequence[Finding]
) -> None:
    width = console.width if console.is_terminal else None
    for line in [*read_as_lines(read_as), *finding_lines(findings)]:
        indent = " " * (len(line) - len(line.lstrip(" -")))
        wrapped = [line] if width is None else _wrapped(line, width, indent)
        for part in wrapped:
            console.print(part, markup=False, highlight=False, soft_wrap=True)


def read_as_lines(read_as: Mapping[str, str]) -> Iterator[str]:
    """A line for tasks whose records were taken for the same."""
    tasks_of: dict[str, list[str]] = {}
    for task, form in read_as.items():
        tasks_of.setdefault(form, []).append(task)
    if tasks_of:
        yield "records read as"
    for form, tasks in tasks_of.items():
        every = len(tasks) == len(read_as) > 1
        yield f"  {'all tasks' if every else ', '.join(tasks)}: {form}"


def finding_lines(findings: Sequence[Finding]) -> Iterator[str]:
    if findings:
        yield "noticed before training"
    for finding in findings[:MOST_FINDINGS]:
        yield f"- {finding.sentence}"
    if len(findings) > MOST_FINDINGS:
        yield f"  ... and {len(findings) - MOST_FINDINGS} more, all of them in the report"


def _wrapped(line: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
