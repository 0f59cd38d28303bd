"""Several runs on the same tasks, side by side: how evenly their tasks converged, and by what
weights (as Figures 8-10 of the CoBa paper, arXiv 2410.06741).
"""

import math
from pathlib import Path

import numpy as np

from mft_jax.record.columns import RunRecord, last_step
from mft_jax.record.files import write_whole
from mft_jax.record.outcome import final_ratios, mean_and_worst
from mft_jax.record.reading import passed_over_note, read_record
from mft_jax.record.schema import COMPARE_FILE, METRICS_FILE
from mft_jax.record.verdict import verdict
from mft_jax.report import page, series, tables
from mft_jax.report.charts import Chart, Line, line_chart
from mft_jax.report.html import Html, element, join
from mft_jax.types import MftError


def write_comparison(workdir: Path, names: list[str]) -> Path:
    """Read `workdir/NAME/metrics.jsonl` of every run and write `workdir/compare.html`."""
    runs = {name: read_record(workdir / name / METRICS_FILE) for name in names}
    return write_whole(workdir / COMPARE_FILE, render(runs, workdir.resolve().name))


def render(runs: dict[str, RunRecord], title: str) -> str:
    tasks = next(iter(runs.values())).header.tasks
    for name, record in runs.items():
        if record.header.tasks != tasks:
            raise MftError(
                f"{name} has tasks {', '.join(record.header.tasks)}, but the first run has "
                f"{', '.join(tasks)}; runs are compared on the same tasks"
            )
    steps = (0.0, float(max(max(last_step(record) for record in runs.values()), 1)))
    parts = [
        page.card("Outcome", _outcome(runs, tasks)),
        _legend("runs", list(runs)),
        page.section("Validation loss, normalised, per task", _ratio_panels(runs, tasks, steps)),
        _legend("tasks", list(tasks)),
        page.section("Weight in the training loss, per run", _weight_panels(runs, tasks, steps)),
    ]
    count = f"{len(runs)} run" + "s" * (len(runs) > 1)
    return page.fill(
        title=title,
        summary=f"{count} · {len(tasks)} tasks",
        notes=page.notes([words for words in map(passed_over_note, runs.values()) if words]),
        body=join(parts, "\n"),
        foot="ratio: validation loss over that before training; lower is better",
    )


def _legend(label: str, names: list[str]) -> Html:
    chips = (element("span", tables.swatch(i, name), class_="chip") for i, name in enumerate(names))
    return element("div", *chips, class_="legend", aria_label=label)


def _outcome(runs: dict[str, RunRecord], tasks: tuple[str, ...]) -> Html:
    """A row per run: mean and worst ratio, and that of every task; the best of a column is bold."""
    rows = []
    for record in runs.values():
        ratios = final_ratios(record)
        rows.append([*mean_and_worst(ratios), *ratios])
    numbers = np.array(rows)
    best = np.nanmin(np.where(np.isfinite(numbers), numbers, np.inf), axis=0)
    cells = []
    for place, (name, record) in enumerate(runs.items()):
        shown = [
            element("b", series.fixed(x)) if x == best[column] else series.fixed(x)
            for column, x in enumerate(rows[place])
        ]
        seconds = record.end.seconds if record.end is not None else math.nan
        end = [verdict(record).run.short, series.count(round(seconds, 0))]
        cells.append([tables.swatch(place, name), *shown, *end])
    groups = [("", 1), ("validation loss ratio", 2 + len(tasks)), ("", 2)]
    heads = ["run", "mean", "worst", *tasks, "verdict", "seconds"]
    return tables.table(groups, heads, cells)


def _ratio_panels(
    runs: dict[str, RunRecord], tasks: tuple[str, ...], steps: tuple[float, float]
) -> list[Html]:
    every = np.concatenate([record.valid.task["ratio"].ravel() for record in runs.values()])
    every = every[np.isfinite(every)]
    low, high = (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)
    figures = []
    for task, name in enumerate(tasks):
        lines = []
        for place, (run, record) in enumerate(runs.items()):
            x, y = series.finite(record.valid.step, record.valid.task["ratio"][:, task])
            lines.append(Line(run, place, x, y))
        chart = Chart(
            name,
            "relative to the loss before training",
            tuple(lines),
            steps,
            reference=1.0,
            y_range=(low, high),
        )
        figures.append(line_chart(chart))
    return figures


def _weight_panels(
    runs: dict[str, RunRecord], tasks: tuple[str, ...], steps: tuple[float, float]
) -> list[Html]:
    every = [record.train.task["weight"] for record in runs.values()]
    highest = max([float(np.nanmax(weight)) for weight in every if weight.size], default=1.0)
    lowest = min([float(np.nanmin(weight)) for weight in every if weight.size], default=0.0)
    figures = []
    for run, record in runs.items():
        lines = []
        for task, name in enumerate(tasks):
            x, y = series.finite(record.train.step, record.train.task["weight"][:, task])
            lines.append(Line(name, task, x, series.smooth(y)))
        chart = Chart(
            run,
            f"smoothed; dashed: uniform, 1/{len(tasks)}",
            tuple(lines),
            steps,
            reference=1 / len(tasks),
            zero_based=True,
            y_range=(min(lowest, 0.0), highest),
        )
        figures.append(line_chart(chart))
    return figures
