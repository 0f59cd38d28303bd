"""What was noticed before training, and what the records of the tasks were taken for."""

from mft_jax.record.columns import RunRecord
from mft_jax.record.schema import Finding
from mft_jax.report.html import Html, element, join
from mft_jax.report.tables import named_values

SHOWN = 5  # the others unfold


def findings_card(record: RunRecord) -> Html:
    """A list, those that make a number wrong first; nothing where nothing was noticed."""
    findings = record.header.findings
    if not findings:
        return join([])
    parts, hidden = [_list(findings[:SHOWN])], findings[SHOWN:]
    if hidden:
        heading = element("summary", f"{len(hidden)} more")
        parts.append(element("details", heading, _list(hidden)))
    card = element("div", *parts, class_="card findings")
    return join([element("h2", "Noticed before training"), card], "\n")


def _list(findings: tuple[Finding, ...]) -> Html:
    items = []
    for finding in findings:
        task = [] if finding.task is None else [element("b", finding.task), ": "]
        items.append(element("li", *task, finding.text))
    return element("ul", *items)


def reading_card(record: RunRecord) -> Html:
    """By task, what its records were taken for."""
    read_as = record.header.read_as
    if not read_as:
        return join([])
    heading = element("summary", "What the records were taken for")
    return element("details", heading, named_values(read_as.items()), class_="card")
