"""Fewer points, lighter noise, round ticks, short numbers."""

import math

import numpy as np
from jaxtyping import Bool, Float, Num

SMOOTH_MIN_POINTS = 24  # below this the observations themselves are the curve


def finite(
    x: Num[np.ndarray, " steps"], y: Float[np.ndarray, " steps"]
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """The observations only: points where y is a number."""
    known: Bool[np.ndarray, " steps"] = np.isfinite(y)
    return x[known].astype(float), y[known]


def smooth(y: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    """Centred moving mean over a thirtieth of the points. It does not lag behind the curve.

    At the start the window shrinks on both sides, so the curve begins at its true first value; at
    the end on the right side only, so one last noisy observation does not bend it.
    """
    if len(y) < SMOOTH_MIN_POINTS:
        return y
    half = max(1, len(y) // 60)
    at = np.arange(len(y))
    low = at - np.minimum(half, at)
    high = np.minimum(at + np.minimum(half, at), len(y) - 1) + 1
    total = np.concatenate([[0.0], np.cumsum(y)])
    return (total[high] - total[low]) / (high - low)


def thin(
    x: Float[np.ndarray, " points"], y: Float[np.ndarray, " points"], limit: int
) -> tuple[Float[np.ndarray, " kept"], Float[np.ndarray, " kept"]]:
    """At most `limit` points: means over equal buckets, between the exact first and last point."""
    if len(y) <= limit:
        return x, y
    edges = np.linspace(1, len(y) - 1, limit - 1).astype(int)
    counts = np.diff(edges)
    inner_x = np.add.reduceat(x[: edges[-1]], edges[:-1]) / counts
    inner_y = np.add.reduceat(y[: edges[-1]], edges[:-1]) / counts
    return np.concatenate([x[:1], inner_x, x[-1:]]), np.concatenate([y[:1], inner_y, y[-1:]])


def envelope(
    x: Float[np.ndarray, " points"], y: Float[np.ndarray, " points"], limit: int
) -> tuple[Float[np.ndarray, " kept"], Float[np.ndarray, " kept"]]:
    """At most `limit` points that keep the spread: lowest and highest of each bucket, in order."""
    if len(y) <= limit:
        return x, y
    picks: list[int] = []
    for bucket in np.array_split(np.arange(len(y)), limit // 2):
        values = y[bucket]
        picks.extend(sorted({int(bucket[values.argmin()]), int(bucket[values.argmax()])}))
    return x[picks], y[picks]


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values (1, 2, 2.5 or 5 times a power of ten) within [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def tick_labels(values: list[float]) -> list[str]:
    """The same number of decimals for all ticks of an axis; thousands as k, tiny ones as 2e-5."""
    top = max((abs(v) for v in values), default=0.0)
    if top >= 10_000:
        unit, letter = next((u, c) for u, c in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if top >= u)
        return [f"{v / unit:.4g}{letter}" if v else "0" for v in values]
    gaps = [b - a for a, b in zip(values, values[1:], strict=False)]
    gap = min(gaps, default=top or 1.0)
    decimals = 0
    while decimals < 8 and abs(round(gap, decimals) - gap) > 1e-6 * gap:
        decimals += 1
    if decimals > 4:
        power = math.floor(math.log10(top))
        return [f"{v / 10.0**power:.3g}e{power}" if v else "0" for v in values]
    return [f"{v:.{decimals}f}" for v in values]


def count(value: float) -> str:
    """1234567 -> 1.23M; exact below ten thousand."""
    if math.isnan(value):
        return "–"
    if abs(value) < 10_000:
        return f"{value:,.0f}"
    units = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
    unit, letter = next((u, c) for u, c in units if abs(value) >= u)
    scaled = value / unit
    return f"{scaled:.3g}{letter}" if abs(scaled) < 1000 else f"{scaled:.0f}{letter}"


def fixed(value: float, decimals: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{decimals}f}"


def percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f}%"


def duration(seconds: float) -> str:
    """201 -> 3 min 21 s; 7500 -> 2 h 5 min."""
    if math.isnan(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def size(n_bytes: float) -> str:
    """3250586 -> 3.1 MiB."""
    if math.isnan(n_bytes):
        return "–"
    units = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
    for unit, name in units:
        if n_bytes >= unit:
            return f"{n_bytes / unit:.3g} {name}"
    return f"{n_bytes:.0f} B"
