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
    target = workdir / "report.html"
    draft = workdir / f".report.{os.getpid()}.html"
    try:
        draft.write_text(page, encoding="utf-8")
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def render(record: RunRecord, name: str) -> str:
    """The page as text. `name` is what the run is called, usually its folder."""
    groups = figure_groups(record)
    many = len(record.header.tasks) > 1
    figures = "".join(
        f'<h2>{heading}</h2><div class="figures">{"".join(cards)}</div>'
        for heading, cards in groups
    )
    return _template().substitute(
        title=escape(name),
        summary=summary.summary(record),
        notes=summary.notes(record),
        tiles=summary.tiles(record),
        tasks=tables.task_table(record),
        legend=tables.legend(record) if many else "",
        figures=figures,
        data=tables.data_table(record),
        packing=tables.packing_bars(record),
        config=tables.config_table(record),
        foot=summary.foot(record),
    )


def _template() -> string.Template:
    text = resources.files("mft_jax.report").joinpath("page.html").read_text(encoding="utf-8")
    return string.Template(text)
