"""What was measured at several values as a table, and how it grows: exponents and verdicts."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from rich.table import Table

TOLERANCE = 0.1  # of an exponent
CAPTION = (
    "seconds: {unit}, median of {repeats}; MiB: temporaries of the compiled step\n"
    "GFLOP: the step's arithmetic by shapes; ^: exponents, of the larger values\n"
    "more devices are planned, not measured: mft plan --topology=v6e:16x16"
)


class Measured(NamedTuple):
    value: int
    seconds: float
    temporaries: int
    flops: float


def exponent(values: Sequence[float], measured: Sequence[float]) -> float:
    """The e of measured ~ values ** e by least squares, over the upper half of the values and at
    least three of them: what does not grow hides the growth of the small ones.

    >>> exponent([1, 2, 4, 8], [9, 5, 20, 80])
    2.0
    """
    most = max(3, math.ceil(len(values) / 2))
    x, y = (np.log(np.asarray(part[-most:], float)) for part in (values, measured))
    return round(float(np.polyfit(x, y, 1)[0]), 2) + 0.0  # no minus before a zero


def verdict(seconds: float, temporaries: float, flops: float) -> str:
    """
    >>> verdict(1.0, 0.9, 1.0), verdict(1.7, 1.0, 1.8), verdict(1.0, 1.6, 1.0)
    ('not faster than linear', 'time as its arithmetic', 'memory faster than linear')
    """
    linear = 1 + TOLERANCE
    if temporaries > linear:
        return "memory faster than linear"
    if seconds <= linear:
        return "not faster than linear"
    return "time as its arithmetic" if seconds <= flops + TOLERANCE else "time faster than linear"


def growth_table(measured: dict[str, list[Measured]], repeats: int) -> Table:
    cpu = jax.default_backend() == "cpu"
    unit = "CPU seconds" if cpu else "until the device is done (of samples: CPU seconds)"
    table = Table(
        title="growth of a step's time and memory, and of the loader's",
        title_justify="left",
        caption=CAPTION.format(unit=unit, repeats=repeats),
        caption_justify="left",
        width=80,
    )
    table.add_column("what grows")
    for column in ("value", "seconds", "us each", "MiB", "GFLOP"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, found in measured.items():
        for index, one in enumerate(found):
            cells = [f"{one.value:,}", f"{one.seconds:.4f}", f"{one.seconds / one.value * 1e6:.2f}"]
            cells += [f"{one.temporaries / 2**20:,.1f}"] if one.temporaries else ["-"]
            cells += [f"{one.flops / 1e9:,.2f}"] if one.flops else ["-"]
            table.add_row("" if index else name, *cells)
        table.add_row(*_exponents(found), end_section=True)
    return table


def _exponents(found: Sequence[Measured]) -> list[str]:
    """The last row of what grows: its verdict, and its exponents."""
    if len(found) < 2:
        return ["too few values for an exponent"]
    values = [one.value for one in found]
    seconds = exponent(values, [one.seconds for one in found])
    temporaries = flops = 0.0
    cells = ["-", "-"]
    if found[0].temporaries:
        temporaries = exponent(values, [one.temporaries for one in found])
        cells[0] = f"^ {temporaries:.2f}"
    if found[0].flops:
        flops = exponent(values, [one.flops for one in found])
        cells[1] = f"^ {flops:.2f}"
    return [verdict(seconds, temporaries, flops), "", f"^ {seconds:.2f}", "", *cells]
