"""What was noticed before training, and what the records of the tasks were taken for."""

from html import escape

from mft_jax.record.columns import RunRecord
from mft_jax.record.schema import Finding

SHOWN = 5  # the others unfold


def findings_card(record: RunRecord) -> str:
    """A list, those that make a number wrong first; nothing where nothing was noticed."""
    findings = record.header.findings
    if not findings:
        return ""
    hidden = findings[SHOWN:]
    rest = (
        f"<details><summary>{len(hidden)} more</summary>{_list(hidden)}</details>" if hidden else ""
    )
    return (
        "<h2>Noticed before training</h2>\n"
        f'<div class="card findings">{_list(findings[:SHOWN])}{rest}</div>'
    )


def _list(findings: tuple[Finding, ...]) -> str:
    items = []
    for finding in findings:
        task = "" if finding.task is None else f"<b>{escape(finding.task)}</b>: "
        items.append(f"<li>{task}{escape(finding.text)}</li>")
    return f"<ul>{''.join(items)}</ul>"


def reading_card(record: RunRecord) -> str:
    """By task, what its records were taken for."""
    header = record.header
    rows = "".join(
        f"<tr><th scope=row>{escape(task)}</th><td>{escape(form)}</td></tr>"
        for task, form in header.read_as.items()
    )
    if not rows:
        return ""
    return (
        '<details class="card"><summary>What the records were taken for</summary>'
        f'<table class="config">{rows}</table></details>'
    )
