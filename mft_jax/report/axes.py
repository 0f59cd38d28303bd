"""The frame of a figure: data coordinates to view box coordinates, ticks, text.

A view box is 380 wide, close to a phone's column, so text stays legible there. Room for text is
computed for the phone's font size; the style sheet draws it smaller on a desktop.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from mft_jax.report import series
from mft_jax.report.html import Html, element, join

WIDTH, HEIGHT = 380.0, 250.0
TOP, BASE = 12.0, 216.0  # the plot's upper and lower border
MARGIN = 12.0
CHAR_WIDTH = 7.4


@dataclasses.dataclass(frozen=True)
class Frame:
    """
    left          right
    |  plot area  |  names at line ends
    +-------------+
     step ticks
    """

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float
    right: float
    percent: bool
    y_ticks: tuple[tuple[float, str], ...]

    def x(self, values: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
        low, high = self.x_range
        return self.left + (values - low) / (high - low) * (self.right - self.left)

    def y(self, values: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
        low, high = self.y_range
        return BASE - (values - low) / (high - low) * (BASE - TOP)


def fit(
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    *,
    percent: bool,
    zero_based: bool,
    name_chars: int,
) -> Frame:
    """A frame whose margins hold its own tick labels and names of `name_chars` characters.

    The y range gets 4 % of room, or a tenth of its value where it is a single one; an end at 0
    stays there if `zero_based`, and [0, 1] stays as it is.
    """
    x_low, x_high = x_range if x_range[1] > x_range[0] else (x_range[0] - 0.5, x_range[1] + 0.5)
    low, high = y_range
    if zero_based:
        low = min(low, 0.0)
    flat = not high - low > 1e-9 * max(abs(high), abs(low))
    room = (0.1 * abs(high) or 1.0) if flat else 0.04 * (high - low)
    if (low, high) != (0.0, 1.0):
        low, high = (low if zero_based and low == 0 else low - room), high + room
    unit, sign = (100, "%") if percent else (1, "")
    values = series.ticks(low * unit, high * unit, 6)
    labels = [f"{text.replace('-', '−')}{sign}" for text in series.tick_labels(values)]
    y_ticks = tuple((value / unit, text) for value, text in zip(values, labels, strict=True))
    left = (16 if percent else 11) + CHAR_WIDTH * max(map(len, labels), default=0)
    right = WIDTH - (22 + name_chars * CHAR_WIDTH if name_chars else MARGIN)
    return Frame((x_low, x_high), (low, high), left, right, percent, y_ticks)


def draw(frame: Frame) -> Html:
    parts = []
    for value, label in frame.y_ticks:
        y = at(frame.y, value)
        parts.append(horizontal(frame, value, "grid"))
        parts.append(text(frame.left - 7, y + 4.5, label, "end"))
    steps = [v for v in series.ticks(*frame.x_range, 5) if v == round(v)]
    for value, label in zip(steps, series.tick_labels(steps), strict=True):
        x = at(frame.x, value)
        parts.append(element("path", class_="tick", d=f"M{x:.1f} {BASE}v4"))
        over = x + len(label) * CHAR_WIDTH / 2 > WIDTH
        parts.append(text(WIDTH if over else x, BASE + 17, label, "end" if over else "middle"))
    axis = f"M{frame.left:.1f} {BASE}H{frame.right:.1f}"
    parts.append(element("path", class_="axis", d=axis))
    parts.append(text((frame.left + frame.right) / 2, HEIGHT - 3, "step", "middle"))
    return join(parts)


def at(scale, value: float) -> float:
    return float(scale(np.array([value]))[0])


def horizontal(frame: Frame, value: float, look: str) -> Html:
    y = at(frame.y, value)
    return element("path", class_=look, d=f"M{frame.left:.1f} {y:.1f}H{frame.right:.1f}")


def text(x: float, y: float, words: str, anchor: str, **attributes: str | float | None) -> Html:
    where = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text_anchor": anchor}
    return element("text", words, **where, **attributes)


def points(x: Float[np.ndarray, " points"], y: Float[np.ndarray, " points"]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def wrap(frame: Frame, spoken: str, parts: list[Html]) -> Html:
    """The `svg`. Its data attributes let the page's script turn points back into values."""
    plot = f"{frame.left:.1f},{frame.right:.1f},{TOP},{BASE}"
    data = ",".join(f"{end:.7g}" for end in (*frame.x_range, *frame.y_range))
    return element(
        "svg", draw(frame), *parts, viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img",
        aria_label=spoken, data_plot=plot, data_range=data, data_percent=int(frame.percent),
    )  # fmt: skip
