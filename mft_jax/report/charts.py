"""Two kinds of figure as inline SVG: lines over steps, and stacked shares.

Colour and dash of task i are the style sheet's classes `c{i % 8}` and `d{i // 8 % 5}`; `data-task`
marks what belongs to it, for the legend's spotlight.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Num

from mft_jax.report import axes, series
from mft_jax.report.axes import Frame
from mft_jax.report.html import Html, element, join

LABEL_CHARS, LABEL_GAP = 12, 15.0
MARKED_POINTS, MARKED_LINES = 30, 16  # up to here observations are marked one by one
COLORS, DASHES = 8, 5


@dataclasses.dataclass(frozen=True)
class Line:
    name: str
    task: int | None  # decides the look; None: the figure's only quantity
    x: Num[np.ndarray, " steps"]
    y: Float[np.ndarray, " steps"]  # NaN: no observation
    faint: bool = False  # the raw data behind a smoothed line


@dataclasses.dataclass(frozen=True)
class Chart:
    title: str
    note: str  # one line under the title
    lines: tuple[Line, ...]
    steps: tuple[float, float]  # the x range, the same for all figures of a page
    percent: bool = False
    zero_based: bool = False
    reference: float | None = None  # a dashed horizontal line
    labelled: bool = False  # names at the line ends
    points_per_line: int = 600
    y_range: tuple[float, float] | None = None  # that of the lines, if not given


def task_look(task: int | None) -> str:
    return "single" if task is None else f"c{task % COLORS} d{task // COLORS % DASHES}"


def line_chart(chart: Chart) -> Html:
    """A figure. Raw lines that leave the range of the smoothed ones are cut at its border."""
    lines = [_observed(line, chart.points_per_line) for line in chart.lines]
    lines = [line for line in lines if len(line.y)]
    if not lines:
        nothing = element("p", "Nothing recorded yet", class_="empty")
        return figure(chart.title, chart.note, nothing)
    frame = axes.fit(
        chart.steps,
        chart.y_range or _y_range(lines),
        percent=chart.percent,
        zero_based=chart.zero_based,
        name_chars=_name_chars(lines) if chart.labelled else 0,
    )
    parts = []
    if chart.reference is not None and frame.y_range[0] <= chart.reference <= frame.y_range[1]:
        parts.append(axes.horizontal(frame, chart.reference, "reference"))
    solid = [line for line in lines if not line.faint]
    for line in [line for line in lines if line.faint] + solid:
        parts.append(_draw(frame, line, len(solid)))
    if chart.labelled:
        ends = [(float(frame.x(line.x)[-1]), float(frame.y(line.y)[-1])) for line in solid]
        parts.append(_end_labels(frame, solid, ends))
    spoken = f"{chart.title}. {_spoken(solid, chart.percent)}."
    return figure(chart.title, chart.note, axes.wrap(frame, spoken, parts))


def share_chart(chart: Chart, edges: Float[np.ndarray, " edges"]) -> Html:
    """Stacked columns. A line holds its task's share in each of the E - 1 intervals of `edges`."""
    frame = axes.fit(
        chart.steps,
        (0.0, 1.0),
        percent=True,
        zero_based=True,
        name_chars=_name_chars(chart.lines) if chart.labelled else 0,
    )
    parts, middles = [], []
    x = frame.x(np.repeat(edges, 2)[1:-1])
    below = np.zeros(len(edges) - 1)
    for line in chart.lines:
        low, high = frame.y(np.repeat(below, 2)), frame.y(np.repeat(below + line.y, 2))
        outline = f"{axes.points(x, high)} {axes.points(x[::-1], low[::-1])}"
        look = f"area {task_look(line.task)}"
        parts.append(element("polygon", class_=look, data_task=line.task, points=outline))
        middles.append((float(x[-1]), float(low[-1] + high[-1]) / 2))
        below = below + line.y
    if chart.labelled:
        parts.append(_end_labels(frame, list(chart.lines), middles))
    spoken = f"{chart.title}. {_spoken(list(chart.lines), percent=True)}."
    return figure(chart.title, chart.note, axes.wrap(frame, spoken, parts))


def _observed(line: Line, limit: int) -> Line:
    """The line without its gaps and with at most `limit` points."""
    x, y = series.finite(line.x, line.y)
    x, y = (series.envelope if line.faint else series.thin)(x, y, limit)
    return dataclasses.replace(line, x=x, y=y)


def _y_range(lines: list[Line]) -> tuple[float, float]:
    """All of the solid lines; of raw ones the part between their percentiles 1 and 99."""
    solid = np.concatenate([line.y for line in lines if not line.faint])
    ends = [solid.min(), solid.max()]
    raw = [line.y for line in lines if line.faint]
    if raw:  # a rare spike must not flatten the curves
        ends.extend(np.percentile(np.concatenate(raw), [1, 99]))
    return float(min(ends)), float(max(ends))


def _draw(frame: Frame, line: Line, lines: int) -> Html:
    x, y = frame.x(line.x), frame.y(np.clip(line.y, *frame.y_range))
    look = task_look(line.task)
    kind, name = ("raw", None) if line.faint else ("line", line.name)
    drawn = element(
        "polyline", class_=f"{kind} {look}", data_task=line.task, data_name=name,
        points=axes.points(x, y),
    )  # fmt: skip
    if line.faint:
        return drawn
    if len(x) == 1 or (len(x) <= MARKED_POINTS and lines <= MARKED_LINES):
        radius = 3 if len(x) <= MARKED_POINTS // 2 else 2
        dots = (
            element("circle", cx=f"{a:.1f}", cy=f"{b:.1f}", r=radius)
            for a, b in zip(x, y, strict=True)
        )
        marks = element("g", *dots, class_=f"dots {look}", data_task=line.task)
        return join([drawn, marks])
    return drawn


def _end_labels(frame: Frame, lines: list[Line], ends: list[tuple[float, float]]) -> Html:
    """Names next to the line ends, moved apart where they would overlap, with a leader each."""
    order = sorted(range(len(lines)), key=lambda n: ends[n][1])
    places = spread([ends[n][1] for n in order], LABEL_GAP, axes.TOP, axes.BASE)
    parts = []
    for n, place in zip(order, places, strict=True):
        x, y = ends[n]
        leader = f"M{x + 3:.1f} {y:.1f}H{frame.right + 3:.1f}l9 {place - y:.1f}h3"
        task, name = lines[n].task, _short(lines[n].name)
        look = f"leader {task_look(task)}"
        parts.append(element("path", class_=look, data_task=task, d=leader))
        at = frame.right + 18, place + 4.5
        parts.append(axes.text(*at, name, "start", class_="label", data_task=task))
    return join(parts)


def spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Rising positions at least `gap` apart, close to the wanted ones, inside [low, high].

        wanted  10 11 40     gap 8     placed  10 18 40

    Where [low, high] is too short for that, the gap shrinks.
    """
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    placed: list[float] = []
    for y in wanted:
        placed.append(max(y, placed[-1] + gap if placed else low))
    ceiling = high
    for n in reversed(range(len(placed))):
        placed[n] = min(placed[n], ceiling)
        ceiling = placed[n] - gap
    return placed


def _name_chars(lines: tuple[Line, ...] | list[Line]) -> int:
    return max(len(_short(line.name)) for line in lines)


def _short(name: str) -> str:
    return name if len(name) <= LABEL_CHARS else name[: LABEL_CHARS - 1] + "…"


def _spoken(lines: list[Line], percent: bool) -> str:
    """What a screen reader says of the figure: first and last value of every line."""
    show = series.percent if percent else "{:.3g}".format
    return "; ".join(
        f"{line.name} from {show(float(line.y[0]))} to {show(float(line.y[-1]))}" for line in lines
    )


def figure(title: str, note: str, body: Html) -> Html:
    """A `figure` with its caption."""
    caption = element("figcaption", element("h3", title), element("p", note))
    return element("figure", caption, body)
