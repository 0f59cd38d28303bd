"""The page's tables: outcome and data per task, packing, configuration."""

import math
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float

from mft_jax.report import series
from mft_jax.report.charts import task_look
from mft_jax.report.header import DATA_COUNTS
from mft_jax.report.record import RunRecord


def task_table(record: RunRecord) -> str:
    """Outcome first, so that a phone shows it before the table has to be scrolled."""
    rows = [_task_row(record, task) for task in range(len(record.header.tasks))]
    groups = [("", 1), ("validation loss", 5), ("", 1), ("samples", 1), ("tokens", 2)]
    groups.append(("over-long samples", 3))
    heads = ["task", "before", "last", "best", "at step", "ratio", "final weight", "train"]
    heads += ["train", "with loss", "dropped", "truncated", "split"]
    return table(groups, heads, rows)


def _task_row(record: RunRecord, task: int) -> list[str]:
    name = record.header.tasks[task]
    data = record.header.data[name]
    loss, ratio = record.valid.task["loss"][:, task], record.valid.task["ratio"][:, task]
    known = np.flatnonzero(np.isfinite(loss))
    before = float(loss[0]) if len(loss) and record.valid.step[0] == 0 else math.nan
    best = known[loss[known].argmin()] if len(known) else None
    weights = record.train.task["weight"][:, task]
    return [
        swatch(task, name),
        series.fixed(before),
        f"<b>{series.fixed(_last(loss))}</b>",
        series.fixed(float(loss[best])) if best is not None else "–",
        f"{record.valid.step[best]:,}" if best is not None else "–",
        ratio_bar(_last(ratio)),
        series.fixed(_last(weights)),
        *(series.count(data[key]) for key in ("train_samples", "train_tokens", "trained_tokens")),
        *(series.count(data[key]) for key in ("dropped", "truncated", "split")),
    ]


def data_table(record: RunRecord) -> str:
    """What was read, and what the steps have seen of it so far."""
    header = record.header
    seen = np.nansum(record.train.task["tokens"], axis=0)
    share = seen / seen.sum() if seen.sum() > 0 else np.full(len(seen), math.nan)
    rows = [
        [
            swatch(task, name),
            *(series.count(header.data[name][key]) for key in DATA_COUNTS[:5]),
            series.count(float(seen[task])),
            series.percent(float(share[task])),
        ]
        for task, name in enumerate(header.tasks)
    ]
    totals = [sum(header.data[name][key] for name in header.tasks) for key in DATA_COUNTS[:5]]
    total = ["all", *map(series.count, totals), series.count(float(seen.sum())), ""]
    groups = [("", 1), ("samples", 2), ("tokens", 3), ("seen in training", 2)]
    heads = ["task", "train", "valid", "train", "with loss", "valid", "tokens", "share"]
    return table(groups, heads, rows, total if len(rows) > 1 else None)


def packing_bars(record: RunRecord) -> str:
    packing = record.header.packing
    bars = "".join(
        _bar(words, share)
        for words, share in (
            ("packed rows (this run)", packing["packed"]),
            ("padded to the longest of a batch", packing["dynamic"]),
            ("padded to the row length", packing["static"]),
        )
    )
    rows, length = series.count(packing["rows"]), series.count(packing["row_length"])
    size = f"{rows} rows of {length} positions."
    return f"<p>{size} Share of positions that hold a token, on the same data:</p>{bars}"


def _bar(words: str, share: float) -> str:
    fill = f'<i><b style="width:{100 * _or_zero(share):.1f}%"></b></i>'
    return f'<div class="bar"><span>{words}</span>{fill}<span>{series.percent(share)}</span></div>'


def config_table(record: RunRecord) -> str:
    rows = "".join(
        f"<tr><th scope=row>{escape(key)}</th><td>{escape(value)}</td></tr>"
        for key, value in _flat(record.header.config, "")
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


def _last(values: Float[np.ndarray, " S"]) -> float:
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else math.nan


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
