"""The page's tables: outcome and data per task, packing, configuration."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from mft_jax.record.columns import RunRecord
from mft_jax.record.outcome import TaskOutcome, task_outcomes
from mft_jax.record.schema import COLUMNS, data_columns
from mft_jax.record.verdict import verdict
from mft_jax.report import series
from mft_jax.report.charts import task_look
from mft_jax.report.html import Html, element, join


def task_table(record: RunRecord) -> Html:
    """Outcome first, so that a phone shows it before the table has to be scrolled."""
    judged = verdict(record).tasks
    rows = [
        _task_row(record, n, row, judged[row.task].short)
        for n, row in enumerate(task_outcomes(record))
    ]
    groups = [("", 1), ("validation loss", 5), ("", 2), ("samples", 1), ("tokens", 2)]
    heads = ["task", "before", "last", "best", "at step", "ratio", "verdict", "final weight"]
    heads += ["train", "train", "with loss"]
    return table(groups, heads, rows)


def _task_row(record: RunRecord, task: int, row: TaskOutcome, judged: str) -> list[str]:
    data = record.header.data[row.task]
    return [
        swatch(task, row.task),
        series.fixed(row.before),
        element("b", series.fixed(row.last)),
        series.fixed(row.best),
        "–" if row.best_step is None else f"{row.best_step:,}",
        ratio_bar(row.ratio),
        judged,
        series.fixed(row.weight),
        *map(series.count, (data.train_samples, data.train_tokens, data.trained_tokens)),
    ]


def data_table(record: RunRecord) -> Html:
    """What was read, what of it could not be used or not whole, and what the steps have seen."""
    header = record.header
    seen = np.nansum(record.train.task["tokens"], axis=0)
    share = seen / seen.sum() if seen.sum() > 0 else np.full(len(seen), math.nan)
    keys = data_columns(header.data)
    counts = [[float(getattr(header.data[name], key)) for key in keys] for name in header.tasks]
    rows = [
        [
            swatch(task, name),
            *map(series.count, counts[task]),
            series.count(float(seen[task])),
            series.percent(float(share[task])),
        ]
        for task, name in enumerate(header.tasks)
    ]
    totals = map(sum, zip(*counts, strict=True))
    total = ["all", *map(series.count, totals), series.count(float(seen.sum())), ""]
    named = [COLUMNS[key].group for key in keys]
    groups = [("", 1), *((name, named.count(name)) for name in dict.fromkeys(named))]
    heads = ["task", *(COLUMNS[key].head for key in keys), "tokens", "share"]
    return table([*groups, ("seen in training", 2)], heads, rows, total if len(rows) > 1 else None)


def packing_bars(record: RunRecord) -> Html:
    packing = record.header.packing
    bars = join(
        _bar(words, share)
        for words, share in (
            ("packed rows (this run)", packing.packed),
            ("padded to the longest of a batch", packing.dynamic),
            ("padded to the row length", packing.static),
        )
    )
    rows, length = series.count(packing.rows), series.count(packing.row_length)
    size = f"{rows} rows of {length} positions."
    words = element("p", f"{size} Share of positions that hold a token, on the same data:")
    return join([words, bars])


def _bar(words: str, share: float) -> Html:
    shown = element("span", series.percent(share))
    return element("div", element("span", words), _meter(share, "meter"), shown, class_="bar")


def _meter(share: float, look: str) -> Html:
    """A bar, of which a share is filled."""
    part = element("rect", width=f"{100 * _or_zero(share):.1f}", height=10)
    return element(
        "svg", part, class_=look, viewBox="0 0 100 10", preserveAspectRatio="none",
        aria_hidden="true",
    )  # fmt: skip


def config_table(record: RunRecord) -> Html:
    command = [("command", record.header.command)] if record.header.command else []
    return named_values([*command, *_flat(record.header.config, "")])


def named_values(pairs: Iterable[tuple[str, str]]) -> Html:
    """A table of names and values."""
    rows = (
        element("tr", element("th", name, scope="row"), element("td", value))
        for name, value in pairs
    )
    return element("table", *rows, class_="config")


def legend(record: RunRecord) -> Html:
    chips = (
        element("span", swatch(task, name), class_="chip", data_task=task)
        for task, name in enumerate(record.header.tasks)
    )
    return element("div", *chips, class_="legend", aria_label="tasks")


def swatch(task: int, name: str) -> Html:
    """The task's line, as the figures draw it, and its name."""
    line = element("path", class_=f"line {task_look(task)}", d="M1 4H21")
    icon = element("svg", line, class_="swatch", viewBox="0 0 22 8", aria_hidden="true")
    return join([icon, name])


def table(
    groups: list[tuple[str, int]],
    heads: list[str],
    rows: list[list[str]],
    total: list[str] | None = None,
) -> Html:
    """The first column stays in view while the rest scrolls inside its box."""
    top = (element("th", words, colspan=span) for words, span in groups)
    head = (element("th", words, scope="col") for words in heads)
    parts = [
        element("thead", element("tr", *top, class_="groups"), element("tr", *head)),
        element("tbody", *map(_row, rows)),
    ]
    if total:
        parts.append(element("tfoot", _row(total)))
    return element("div", element("table", *parts), class_="scroll", tabindex=0)


def _row(cells: list[str]) -> Html:
    rest = (element("td", cell) for cell in cells[1:])
    return element("tr", element("th", cells[0], scope="row"), *rest)


def ratio_bar(ratio: float) -> str:
    if math.isnan(ratio):
        return "–"
    return join([series.fixed(ratio), _meter(min(ratio, 1.0), "meter ratio")])


def _flat(value: Any, key: str) -> list[tuple[str, str]]:
    """`{"a": {"b": [1]}}` -> `[("a.b", "[1]")]`; lists of objects are walked too."""
    if isinstance(value, dict) and value:
        return [row for k, v in value.items() for row in _flat(v, f"{key}.{k}" if key else str(k))]
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return [row for n, v in enumerate(value) for row in _flat(v, f"{key}[{n}]")]
    return [(key, str(value))]


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
