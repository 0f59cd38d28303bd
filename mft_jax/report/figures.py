"""Which figures a run has, in reading order: outcome, balance, data, functions."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from mft_jax.record.columns import RunRecord, Series, last_step
from mft_jax.record.schema import MEASURED_LOSS, MEASURED_RATIO, TRAIN, VALID, Quantity
from mft_jax.report import conflicts, series
from mft_jax.report.charts import Chart, Line, line_chart, share_chart
from mft_jax.report.html import Html

LABELLED_TASKS = 8  # with more, names at line ends would touch; the legend serves
RAW_TASKS = 12  # with more, raw lines behind smoothed ones are a smear
SHARE_COLUMNS = 60
POINTS_PER_FIGURE = 8000
SMOOTHED_NOTE = ", smoothed"
BEHIND_NOTE = "; behind: every step"


def figure_groups(record: RunRecord) -> list[tuple[str, list[Html]]]:
    """`(heading, figures)`. A group without figures is left out."""
    groups = [
        ("Learning", _learning(record)),
        ("Balance", _balance(record)),
        ("Data, optimiser and speed", _data(record) + _speed_and_optimiser(record)),
    ]
    return [(heading, figures) for heading, figures in groups if figures]


def _learning(record: RunRecord) -> list[Html]:
    valid, train, log = record.valid, record.train, record.balancer
    behind = (log.step, log.task[MEASURED_RATIO]) if _measured(log) else None
    return [
        _per_task(record, valid, valid.task["ratio"], VALID.per_task["ratio"], behind=behind),
        _per_task(record, valid, valid.task["loss"], VALID.per_task["loss"]),
        _per_task(
            record, train, train.task["train_loss"], TRAIN.per_task["train_loss"], smoothed=True
        ),
    ]


def _balance(record: RunRecord) -> list[Html]:
    train, log = record.train, record.balancer
    tasks = len(record.header.tasks)
    if tasks == 1 and not len(log):
        return []
    uniform = dataclasses.replace(
        TRAIN.per_task["weight"], note=f"dashed: uniform, 1/{tasks}", reference=1 / tasks
    )
    figures = [_per_task(record, train, train.task["weight"], uniform)]
    # In the balancer's order; logs without a title follow.
    for name in dict.fromkeys([*record.header.balancer_logs, *log.task, *log.scalar]):
        quantity = _balancer_quantity(record, name)
        if quantity.shown and name in log.task:
            figures.append(_per_task(record, log, log.task[name], quantity))
        elif quantity.shown and name in log.scalar:
            figures.append(
                _single(record, log.scalar[name], quantity, smoothed=False, steps=log.step)
            )
    return figures + conflicts.figures(record)


def _measured(log: Series) -> bool:
    """Whether the balancer measured validation losses, which the first figure shows already."""
    return MEASURED_LOSS in log.task and MEASURED_RATIO in log.task


def _balancer_quantity(record: RunRecord, name: str) -> Quantity:
    """The title that the balancer gave; where the run recorded none, the name of the log."""
    quantity = record.header.balancer_logs.get(name)
    if quantity is not None:
        return quantity
    drawn = _measured(record.balancer) and name in (MEASURED_LOSS, MEASURED_RATIO)
    return Quantity(name.replace("_", " "), "as the balancer keeps it", shown=not drawn)


def _data(record: RunRecord) -> list[Html]:
    train, names = record.train, record.header.tasks
    if not len(train):
        return []
    padding = _single(record, train.scalar["padding"], TRAIN.scalars["padding"], percent=True)
    if len(names) == 1:
        return [padding]
    edges, share = token_shares(train)
    lines = tuple(Line(name, n, edges[:-1], share[:, n]) for n, name in enumerate(names))
    quantity = TRAIN.per_task["tokens"]
    note = f"{quantity.note} of every " + ("step" if len(share) == len(train) else "interval")
    labelled = len(names) <= LABELLED_TASKS
    chart = Chart(quantity.title, note, lines, _steps(record), labelled=labelled)
    return [share_chart(chart, edges), padding]


def _speed_and_optimiser(record: RunRecord) -> list[Html]:
    if not len(record.train):
        return []
    return [
        _single(record, record.train.scalar[name], TRAIN.scalars[name], smoothed=smoothed)
        for name, smoothed in (
            ("tokens_per_sec", True), ("learning_rate", False), ("grad_norm", True)
        )
    ]  # fmt: skip


def token_shares(
    train: Series,
) -> tuple[Float[np.ndarray, " edges"], Float[np.ndarray, "edges-1 T"]]:
    """Column edges in steps and every task's share of the tokens in the column."""
    columns = min(len(train), SHARE_COLUMNS)
    cuts = np.linspace(0, len(train), columns + 1).astype(int)[:-1]
    tokens = np.add.reduceat(np.nan_to_num(train.task["tokens"]), cuts, axis=0)
    total = tokens.sum(axis=1, keepdims=True)
    share = np.divide(tokens, total, out=np.zeros_like(tokens), where=total > 0)
    return np.append(train.step[cuts], train.step[-1] + 1).astype(float), share


def _steps(record: RunRecord) -> tuple[float, float]:
    return 0.0, float(max(last_step(record), 1))


def _per_task(
    record: RunRecord,
    columns: Series,
    values: Float[np.ndarray, "steps T"],
    quantity: Quantity,
    *,
    smoothed: bool = False,
    behind: tuple[np.ndarray, np.ndarray] | None = None,
) -> Html:
    """One line per task. `behind`: steps and values of a noisier reading of the same quantity."""
    names = record.header.tasks
    few = len(names) <= RAW_TASKS
    lines: list[Line] = []
    added_note = ""
    for task, name in enumerate(names):
        x, y = series.finite(columns.step, values[:, task])
        if smoothed and len(y) >= series.SMOOTH_MIN_POINTS:
            added_note = SMOOTHED_NOTE + (BEHIND_NOTE if few else "")
            if few:
                lines.append(Line(name, task, x, y, faint=True))
        if behind is not None and few and len(y):
            lines.append(Line(name, task, behind[0], behind[1][:, task], faint=True))
            added_note = "; behind: micro-batches"
        lines.append(Line(name, task, x, series.smooth(y) if smoothed else y))
    chart = Chart(
        quantity.title, quantity.note + added_note, tuple(lines), _steps(record),
        zero_based=quantity.zero_based, reference=quantity.reference,
        labelled=1 < len(names) <= LABELLED_TASKS,
        points_per_line=min(600, POINTS_PER_FIGURE // len(names)),
    )  # fmt: skip
    return line_chart(chart)


def _single(
    record: RunRecord,
    values: Float[np.ndarray, " steps"],
    quantity: Quantity,
    *,
    smoothed: bool = True,
    percent: bool = False,
    steps: Int[np.ndarray, " steps"] | None = None,
) -> Html:
    """One line over `steps`, those of training if not given."""
    x, y = series.finite(record.train.step if steps is None else steps, values)
    title, note = quantity.title, quantity.note
    lines = [Line(title, None, x, series.smooth(y) if smoothed else y)]
    if smoothed and len(y) >= series.SMOOTH_MIN_POINTS:
        lines.insert(0, Line(title, None, x, y, faint=True))
        note += SMOOTHED_NOTE + BEHIND_NOTE
    chart = Chart(
        title, note, tuple(lines), _steps(record),
        percent=percent, zero_based=True, reference=quantity.reference,
    )  # fmt: skip
    return line_chart(chart)
