"""Which figures a run has, in reading order: outcome, balance, data, functions."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mft_jax.report import conflicts, series
from mft_jax.report.charts import Chart, Line, line_chart, share_chart
from mft_jax.report.record import RunRecord, Series, last_step

LABELLED_TASKS = 8  # with more, names at line ends would touch; the legend serves
RAW_TASKS = 12  # with more, raw lines behind smoothed ones are a smear
SHARE_COLUMNS = 60
POINTS_PER_FIGURE = 8000
SMOOTHED_NOTE = ", smoothed"
BEHIND_NOTE = "; behind: every step"
ALREADY_SHOWN = ("valid_loss", "ratio")  # CoBa's: behind the validation loss
KNOWN: dict[str, tuple[str, str, dict[str, Any]]] = {  # a balancer's numbers: title, note, options
    "slope": (
        "Convergence slope", "of the validation loss, per step; below 0 it improves",
        {"reference": 0.0},
    ),
    "rcs": (
        "Relative convergence score (RCS)", "higher for tasks that converge slower than others",
        {"zero_based": True},
    ),
    "acs": (
        "Absolute convergence score (ACS)", "lower for tasks that stop converging or diverge",
        {"zero_based": True},
    ),
    "df": ("Divergence factor (DF)", "the weights follow RCS at 1, ACS at 0", {}),
    "ratio": ("Loss ratio", "of the losses the balancer goes by", {"reference": 1.0}),
}  # fmt: skip


def figure_groups(record: RunRecord) -> list[tuple[str, list[str]]]:
    """`(heading, figures)`. A group without figures is left out."""
    groups = [
        ("Learning", _learning(record)),
        ("Balance", _balance(record)),
        ("Data, optimiser and speed", _data(record) + _machinery(record)),
    ]
    return [(heading, figures) for heading, figures in groups if figures]


def _learning(record: RunRecord) -> list[str]:
    valid, train = record.valid, record.train
    probe = None
    if len(record.balancer) and balancer_name(record) == "coba":
        probe = record.balancer.step, record.balancer.task["ratio"]
    return [
        _per_task(
            record, valid, valid.task["ratio"], "Validation loss, normalised",
            "relative to the loss before training",
            reference=1.0, behind=probe,
        ),
        _per_task(
            record, valid, valid.task["loss"], "Validation loss",
            "nats per token, the whole validation set",
        ),
        _per_task(
            record, train, train.task["train_loss"], "Training loss",
            "nats per token", smoothed=True,
        ),
    ]  # fmt: skip


def _balance(record: RunRecord) -> list[str]:
    train, log = record.train, record.balancer
    tasks = len(record.header.tasks)
    if tasks == 1 and not len(log):
        return []
    weight = _per_task(
        record, train, train.task["weight"], "Weight in the training loss",
        f"dashed: uniform, 1/{tasks}", zero_based=True, reference=1 / tasks,
    )  # fmt: skip
    figures = [weight]
    for name, values in log.task.items():
        if name not in ALREADY_SHOWN or balancer_name(record) != "coba":
            title, note, options = KNOWN.get(name, (name.replace("_", " ").capitalize(), "", {}))
            note = note or "as the balancer keeps it"
            figures.append(_per_task(record, log, values, title, note, **options))
    for name, column in log.scalar.items():
        title, note, _ = KNOWN.get(name, (name, "as the balancer keeps it", {}))
        figures.append(_single(record, column, title, note, smoothed=False, steps=log.step))
    return figures + conflicts.figures(record)


def _data(record: RunRecord) -> list[str]:
    train, names = record.train, record.header.tasks
    if not len(train):
        return []
    note = "share of positions without a token"
    figures = [_single(record, train.scalar["padding"], "Padding", note, percent=True)]
    if len(names) == 1:
        return figures
    edges, share = token_shares(train)
    lines = tuple(Line(name, n, edges[:-1], share[:, n]) for n, name in enumerate(names))
    note = "share of the tokens of every " + ("step" if len(share) == len(train) else "interval")
    labelled = len(names) <= LABELLED_TASKS
    chart = Chart("Tokens by task", note, lines, _steps(record), labelled=labelled)
    return [share_chart(chart, edges), *figures]


def _machinery(record: RunRecord) -> list[str]:
    scalar = record.train.scalar
    if not len(record.train):
        return []
    return [
        _single(record, scalar["tokens_per_sec"], "Throughput",
                "tokens per second, without padding"),
        _single(record, scalar["learning_rate"], "Learning rate", "after warm-up and decay",
                smoothed=False),
        _single(record, scalar["grad_norm"], "Gradient norm",
                "before clipping"),
    ]  # fmt: skip


def token_shares(train: Series) -> tuple[Float[np.ndarray, " E"], Float[np.ndarray, "E-1 T"]]:
    """Column edges in steps and every task's share of the tokens in the column."""
    columns = min(len(train), SHARE_COLUMNS)
    cuts = np.linspace(0, len(train), columns + 1).astype(int)[:-1]
    tokens = np.add.reduceat(np.nan_to_num(train.task["tokens"]), cuts, axis=0)
    total = tokens.sum(axis=1, keepdims=True)
    share = np.divide(tokens, total, out=np.zeros_like(tokens), where=total > 0)
    return np.append(train.step[cuts], train.step[-1] + 1).astype(float), share


def balancer_name(record: RunRecord) -> str:
    return str(record.header.config.get("balancer", {}).get("name", ""))


def _steps(record: RunRecord) -> tuple[float, float]:
    return 0.0, float(max(last_step(record), 1))


def _per_task(
    record: RunRecord,
    columns: Series,
    values: Float[np.ndarray, "S T"],
    title: str,
    note: str,
    *,
    smoothed: bool = False,
    zero_based: bool = False,
    reference: float | None = None,
    behind: tuple[np.ndarray, np.ndarray] | None = None,
) -> str:
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
        title, note + added_note, tuple(lines), _steps(record),
        zero_based=zero_based, reference=reference,
        labelled=1 < len(names) <= LABELLED_TASKS,
        points_per_line=min(600, POINTS_PER_FIGURE // len(names)),
    )  # fmt: skip
    return line_chart(chart)


def _single(
    record: RunRecord,
    values: Float[np.ndarray, " S"],
    title: str,
    note: str,
    *,
    smoothed: bool = True,
    percent: bool = False,
    steps: Int[np.ndarray, " S"] | None = None,
) -> str:
    """One line over `steps`, those of training if not given."""
    x, y = series.finite(record.train.step if steps is None else steps, values)
    lines = [Line(title, None, x, series.smooth(y) if smoothed else y)]
    if smoothed and len(y) >= series.SMOOTH_MIN_POINTS:
        lines.insert(0, Line(title, None, x, y, faint=True))
        note += SMOOTHED_NOTE + BEHIND_NOTE
    chart = Chart(title, note, tuple(lines), _steps(record), percent=percent, zero_based=True)
    return line_chart(chart)
