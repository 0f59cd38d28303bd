"""Record in, one self-contained HTML file out: no script, style, font or image from elsewhere."""

import os
import string
from html import escape
from importlib import resources
from pathlib import Path

from mft_jax.report import summary, tables
from mft_jax.report.figures import figure_groups
from mft_jax.report.record import RunRecord, read_record


def write_report(workdir: Path) -> Path:
    """Reads `workdir/metrics.jsonl`, writes `workdir/report.html` whole or not at all."""
    page = render(read_record(workdir / "metrics.jsonl"), workdir.resolve().name)
    return write_page(workdir / "report.html", page)


def write_page(target: Path, page: str) -> Path:
    draft = target.with_name(f".{target.stem}.{os.getpid()}.html")
    try:
        draft.write_text(page, encoding="utf-8")
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def render(record: RunRecord, name: str) -> str:
    """The page as text. `name` is what the run is called, usually its folder."""
    parts = [
        summary.tiles(record),
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
        notes=summary.notes(record),
        body="\n".join(parts),
        foot=summary.foot(record),
    )


def card(heading: str, content: str) -> str:
    return f'<h2>{heading}</h2>\n<div class="card">{content}</div>'


def section(heading: str, figures: list[str]) -> str:
    return f'<h2>{heading}</h2><div class="figures">{"".join(figures)}</div>'


def fill(*, title: str, summary: str, notes: str, body: str, foot: str) -> str:
    """The template with its parts; all but the title are HTML already."""
    text = resources.files("mft_jax.report").joinpath("page.html").read_text(encoding="utf-8")
    return string.Template(text).substitute(
        title=escape(title), summary=summary, notes=notes, body=body, foot=foot
    )
