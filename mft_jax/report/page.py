"""Record in, one self-contained HTML file out: no script, style, font or image from elsewhere."""

import string
from html import escape
from importlib import resources
from pathlib import Path

from mft_jax.record.columns import RunRecord
from mft_jax.record.files import write_whole
from mft_jax.record.reading import read_record
from mft_jax.record.schema import METRICS_FILE, REPORT_FILE
from mft_jax.report import summary, tables
from mft_jax.report.figures import figure_groups


def write_report(workdir: Path, record: RunRecord | None = None) -> Path:
    """Write `workdir/report.html` whole or not at all, from `record`; if that is not given, from
    `workdir/metrics.jsonl`. Returns the page's path.
    """
    record = record or read_record(workdir / METRICS_FILE)
    return write_whole(workdir / REPORT_FILE, render(record, workdir.resolve().name))


def render(record: RunRecord, name: str) -> str:
    """The page as text. `name` is what the run is called, usually its folder."""
    parts = [
        summary.tiles(record),
        f'<h2>Verdict</h2><div class="card padded">{summary.verdict_words(record)}</div>',
        card("Tasks", tables.task_table(record)),
        tables.legend(record) if len(record.header.tasks) > 1 else "",
        *(section(heading, figures) for heading, figures in figure_groups(record)),
        card("Data", tables.data_table(record)),
        "<h2>Packing</h2>",
        f'<div class="card padded">{tables.packing_bars(record)}</div>',
        "<h2>Configuration</h2>",
        '<details class="card"><summary>All values of this run</summary>'
        f"{tables.config_table(record)}</details>",
    ]
    return fill(
        title=name,
        summary=summary.summary(record),
        notes=notes(summary.notes(record)),
        body="\n".join(parts),
        foot=summary.foot(record),
    )


def card(heading: str, content: str) -> str:
    return f'<h2>{heading}</h2>\n<div class="card">{content}</div>'


def section(heading: str, figures: list[str]) -> str:
    return f'<h2>{heading}</h2><div class="figures">{"".join(figures)}</div>'


def notes(texts: list[str]) -> str:
    return "".join(f'<p class="note">{escape(text)}</p>' for text in texts)


def fill(*, title: str, summary: str, notes: str, body: str, foot: str) -> str:
    """The template with its parts; all but the title are HTML already."""
    text = resources.files("mft_jax.report").joinpath("page.html").read_text(encoding="utf-8")
    return string.Template(text).substitute(
        title=escape(title), summary=summary, notes=notes, body=body, foot=foot
    )
