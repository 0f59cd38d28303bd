"""The page's tables: outcome and data per task, packing, configuration."""

import math
from html import escape
from typing import Any

import numpy as np

from mft_jax.record.columns import RunRecord
from mft_jax.record.outcome import TaskOutcome, task_outcomes
from mft_jax.record.schema import COLUMNS, data_columns
from mft_jax.record.verdict import verdict
from mft_jax.report import series
from mft_jax.report.charts import task_look


def task_table(record: RunRecord) -> str:
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
        f"<b>{series.fixed(row.last)}</b>",
        series.fixed(row.best),
        "–" if row.best_step is None else f"{row.best_step:,}",
        ratio_bar(row.ratio),
        escape(judged),
        series.fixed(row.weight),
        *map(series.count, (data.train_samples, data.train_tokens, data.trained_tokens)),
    ]


def data_table(record: RunRecord) -> str:
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


def packing_bars(record: RunRecord) -> str:
    packing = record.header.packing
    bars = "".join(
        _bar(words, share)
        for words, share in (
            ("packed rows (this run)", packing.packed),
            ("padded to the longest of a batch", packing.dynamic),
            ("padded to the row length", packing.static),
        )
    )
    rows, length = series.count(packing.rows), series.count(packing.row_length)
    size = f"{rows} rows of {length} positions."
    return f"<p>{size} Share of positions that hold a token, on the same data:</p>{bars}"


def _bar(words: str, share: float) -> str:
    fill = f'<i><b style="width:{100 * _or_zero(share):.1f}%"></b></i>'
    return f'<div class="bar"><span>{words}</span>{fill}<span>{series.percent(share)}</span></div>'


def config_table(record: RunRecord) -> str:
    command = [("command", record.header.command)] if record.header.command else []
    rows = "".join(
        f"<tr><th scope=row>{escape(key)}</th><td>{escape(value)}</td></tr>"
        for key, value in [*command, *_flat(record.header.config, "")]
    )
    return f'<table class="config">{rows}</table>'


def legend(record: RunRecord) -> str:
    chips = (
        f'<span class="chip" data-task="{task}">{swatch(task, name)}</span>'
        for task, name in enumerate(record.header.tasks)
    )
    return f'<div class="legend" aria-label="tasks">{"".join(chips)}</div>'


def swatch(task: int, name: str) -> str:
    """The task's line, as the figures draw it, and its name."""
    line = f'<path class="line {task_look(task)}" d="M1 4H21"/>'
    icon = f'<svg class="swatch" viewBox="0 0 22 8" aria-hidden="true">{line}</svg>'
    return f"{icon}{escape(name)}"


def table(
    groups: list[tuple[str, int]],
    heads: list[str],
    rows: list[list[str]],
    total: list[str] | None = None,
) -> str:
    """Cells are HTML. The first column stays in view while the rest scrolls inside its box."""
    top = "".join(f'<th colspan="{span}">{words}</th>' for words, span in groups)
    head = "".join(f"<th scope=col>{words}</th>" for words in heads)
    body = "".join(_row(cells) for cells in rows)
    foot = f"<tfoot>{_row(total)}</tfoot>" if total else ""
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr class="groups">{top}</tr>'
        f"<tr>{head}</tr></thead><tbody>{body}</tbody>{foot}</table></div>"
    )


def _row(cells: list[str]) -> str:
    rest = "".join(f"<td>{cell}</td>" for cell in cells[1:])
    return f"<tr><th scope=row>{cells[0]}</th>{rest}</tr>"


def ratio_bar(ratio: float) -> str:
    if math.isnan(ratio):
        return "–"
    width = 100 * min(ratio, 1.0)
    return f'{series.fixed(ratio)}<i class="ratio"><b style="width:{width:.1f}%"></b></i>'


def _flat(value: Any, key: str) -> list[tuple[str, str]]:
    """`{"a": {"b": [1]}}` -> `[("a.b", "[1]")]`; lists of objects are walked too."""
    if isinstance(value, dict) and value:
        return [row for k, v in value.items() for row in _flat(v, f"{key}.{k}" if key else str(k))]
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return [row for n, v in enumerate(value) for row in _flat(v, f"{key}[{n}]")]
    return [(key, str(value))]


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
