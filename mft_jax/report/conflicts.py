"""Conflicts of tasks: cosines between the gradients of tasks, over time and on the mean.

A heat map has a row for every pair of tasks and a column for every diagnosed step; below 0 one
task's gradient undoes part of the other's.
"""

import itertools

import numpy as np
from jaxtyping import Float

from mft_jax.record.columns import RunRecord
from mft_jax.report import axes
from mft_jax.report.charts import figure
from mft_jax.report.html import Html, element, join

MOST_PAIRS = 20
COLUMNS = 60  # diagnosed steps are averaged into at most so many
WIDTH, NAME_WIDTH, CELL_HEIGHT, TOP = 380.0, 168.0, 15.0, 8.0
MATRIX_CELL, NAME_CHARS = 42.0, 20
DARK = 0.55  # from here on a cell carries white digits
# Diverging, and clear without telling red from green; the middle is the page's background.
NEGATIVE, POSITIVE = "var(--conflict)", "var(--accord)"


def figures(record: RunRecord) -> list[Html]:
    """The heat map over time and the mean matrix; nothing where nothing was diagnosed."""
    if not len(record.conflicts) or len(record.header.tasks) < 2:
        return []
    with np.errstate(invalid="ignore"):
        known = ~np.isnan(record.conflicts.cosine)
        total = np.nansum(record.conflicts.cosine, axis=0)
        mean = np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)
    return [_over_time(record, mean), *([_matrix(record, mean)] if len(mean) <= 8 else [])]


def pairs_by_conflict(mean: Float[np.ndarray, "T T"]) -> list[tuple[int, int]]:
    """The pairs of tasks, the most conflicting first; pairs never seen together last."""
    pairs = list(itertools.combinations(range(len(mean)), 2))
    return sorted(pairs, key=lambda pair: (bool(np.isnan(mean[pair])), mean[pair]))


def _over_time(record: RunRecord, mean: Float[np.ndarray, "T T"]) -> Html:
    names, cosine = record.header.tasks, record.conflicts.cosine
    pairs = pairs_by_conflict(mean)
    shown = pairs[:MOST_PAIRS]
    edges = np.unique(np.linspace(0, len(cosine), min(len(cosine), COLUMNS) + 1).astype(int))
    width = (WIDTH - NAME_WIDTH - 12) / (len(edges) - 1)
    parts = []
    for row, (i, j) in enumerate(shown):
        y = TOP + row * CELL_HEIGHT
        label = f"{_short(names[i])} / {_short(names[j])}"
        parts.append(axes.text(NAME_WIDTH - 6, y + 11, label, "end"))
        for column, (first, last) in enumerate(itertools.pairwise(edges)):
            values = cosine[first:last, i, j]
            values = values[~np.isnan(values)]
            if len(values):
                x = NAME_WIDTH + column * width
                parts.append(_cell(x, y, width, CELL_HEIGHT - 1, float(values.mean())))
    bottom = TOP + len(shown) * CELL_HEIGHT
    steps = record.conflicts.step
    for x, step, anchor in ((NAME_WIDTH, steps[0], "start"), (WIDTH - 12, steps[-1], "end")):
        parts.append(axes.text(x, bottom + 16, f"step {step}", anchor))
    parts.append(_legend(bottom + 30))
    left_out = f"; the {len(shown)} of {len(pairs)} pairs that conflict most" if pairs[20:] else ""
    worst = shown[0]
    spoken = f"Which tasks fight. Most: {names[worst[0]]} and {names[worst[1]]}"
    spoken += f", mean cosine {mean[worst]:.2f}."
    return figure(
        "Which tasks fight",
        f"cosine between the gradients of two tasks over time{left_out}",
        _drawing(parts, bottom + 54, spoken),
    )


def _drawing(parts: list[Html], height: float, spoken: str) -> Html:
    box = f"0 0 {WIDTH} {height}"
    return element("svg", *parts, viewBox=box, role="img", aria_label=spoken)


def _matrix(record: RunRecord, mean: Float[np.ndarray, "T T"]) -> Html:
    names = record.header.tasks
    cell = min(MATRIX_CELL, (WIDTH - 130) / len(names))
    left, parts = WIDTH - 12 - cell * len(names), []
    for i, name in enumerate(names):
        y = TOP + i * cell
        parts.append(axes.text(left - 6, y + cell / 2 + 4, _short(name, 16), "end"))
        for j in range(len(names)):
            if np.isnan(mean[i, j]):
                continue
            x = left + j * cell
            parts.append(_cell(x, y, cell - 1, cell - 1, mean[i, j]))
            at, look = (
                (x + cell / 2, y + cell / 2 + 4),
                "over" if abs(mean[i, j]) > DARK else "label",
            )
            parts.append(axes.text(*at, f"{mean[i, j]:.2f}", "middle", class_=look))
    bottom = TOP + len(names) * cell
    spoken = "Mean cosine between the gradients of tasks. " + " ".join(
        f"{names[i]} and {names[j]}: {mean[i, j]:.2f}." for i, j in pairs_by_conflict(mean)
    )
    return figure(
        "Mean cosine between gradients",
        "over all diagnosed steps; columns in the order of the rows",
        _drawing(parts, bottom + 10, spoken),
    )


def _cell(x: float, y: float, width: float, height: float, cosine: float) -> Html:
    return element(
        "rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{width:.2f}", height=f"{height:.1f}",
        fill=NEGATIVE if cosine < 0 else POSITIVE, fill_opacity=f"{min(abs(cosine), 1.0):.2f}",
    )  # fmt: skip


def _legend(y: float) -> Html:
    """The colour scale: cosine -1 to 1 in steps."""
    values = np.linspace(-1, 1, 11)
    width = (WIDTH - NAME_WIDTH - 12) / len(values)
    cells = [_cell(NAME_WIDTH + i * width, y, width, 8, v) for i, v in enumerate(values)]
    texts = [
        axes.text(x, y + 20, text, anchor)
        for x, anchor, text in (
            (NAME_WIDTH, "start", "-1 fight"),
            ((NAME_WIDTH + WIDTH - 12) / 2, "middle", "0"),
            (WIDTH - 12, "end", "agree +1"),
        )
    ]
    return join(cells + texts)


def _short(name: str, chars: int = NAME_CHARS // 2) -> str:
    return name if len(name) <= chars else name[: chars - 1] + "…"
