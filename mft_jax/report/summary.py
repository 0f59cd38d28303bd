"""What one wants to know before any figure: the state of the run and its main numbers."""

import math
from datetime import datetime

import numpy as np
from jaxtyping import Float

from mft_jax.record.columns import RunRecord, last_step
from mft_jax.record.reading import passed_over_note
from mft_jax.record.verdict import verdict
from mft_jax.report import series
from mft_jax.report.html import Html, element, join

END_WORDS = {
    "finished": "Finished at",
    "early_stop": "Stopped early at",
    "interrupted": "Interrupted at",
}


def summary(record: RunRecord) -> Html:
    header = record.header
    parts = [
        progress(record),
        _several(len(header.tasks), "task"),
        f"{header.model.family}, {series.count(header.model.parameters)} parameters",
        f"started {_moment(record.started)}",
    ]
    if record.last_time is not None:
        word = "last written" if record.end is None else "ended"
        parts.append(f"{word} {_moment(record.last_time)}")
    if record.resumes:
        parts.append(f"resumed {_several(record.resumes, 'time')}")
    return join((element("span", part) for part in parts), " · ")


def _moment(time: datetime) -> str:
    return f"{time.day} {time:%B %Y, %H:%M %Z}".rstrip()


def verdict_words(record: RunRecord) -> Html:
    """The run's verdict as paragraphs."""
    judged = verdict(record)
    advice = [element("p", judged.advice)] if judged.advice else []
    return join([element("p", str(judged), class_="verdict"), *advice])


def progress(record: RunRecord) -> str:
    """Finished at step n of m."""
    state = "No end recorded, last at" if record.end is None else END_WORDS[record.end.reason]
    return f"{state} step {last_step(record):,} of {record.header.planned_steps:,}"


def notes(record: RunRecord) -> list[str]:
    """What a reader of the page must know about the record itself."""
    found = []
    if record.cut_short:
        found.append("The last line of metrics.jsonl is incomplete and has been left out.")
    if passed_over := passed_over_note(record):
        found.append(passed_over)
    if not len(record.train):
        found.append("No training step has been recorded yet.")
    if not len(record.valid):
        found.append("No validation pass has been recorded yet.")
    found += [f"Step {event.step:,}: {event.text}." for event in record.events]
    return found


def tiles(record: RunRecord) -> Html:
    """The numbers one looks for first."""
    header, train = record.header, record.train
    model = header.model
    tokens = float(np.nansum(train.task["tokens"]))
    share = model.trainable / (model.parameters or math.nan)
    bits = model.bits_per_weight
    entries = [
        *_validation_tile(record),
        ("tokens trained on", series.count(tokens), _steps_and_epochs(record)),
        *_duration_tile(record),
        *_memory_tile(record),
        ("trainable", series.count(model.trainable), f"{100 * share:.3g}% of parameters"),
        (
            "stored weights",
            series.size(model.stored_bytes),
            "" if bits is None or math.isnan(bits) else f"{bits:.4g} bits per weight",
        ),
        ("row filling", series.percent(header.packing.packed), "positions that hold a token"),
    ]
    cells = (
        element("div", element("dt", name), element("dd", value, element("small", note)))
        for name, value, note in entries
    )
    return element("dl", *cells, class_="tiles")


def foot(record: RunRecord) -> str:
    header = record.header
    mesh = " × ".join(f"{axis} {size}" for axis, size in header.mesh.items())
    versions = [f"{name} {version}" for name, version in header.software.items()]
    parts = [f"mft_jax {header.version}", *versions, f"mesh {mesh}", header.devices]
    return " · ".join(parts)


def _steps_and_epochs(record: RunRecord) -> str:
    """Steps taken, and the passes over the data that they are."""
    header, steps = record.header, len(record.train)
    if math.isnan(header.epochs) or not header.planned_steps:
        return _several(steps, "step")
    return f"{_several(steps, 'step')}, {header.epochs * steps / header.planned_steps:.3g} epochs"


def _validation_tile(record: RunRecord) -> list[tuple[str, str, str]]:
    means = row_means(record.valid.task["ratio"])
    known = np.flatnonzero(np.isfinite(means))
    if not len(known):
        return []
    best = known[means[known].argmin()]
    note = f"best {means[best]:.3f} at step {record.valid.step[best]:,}"
    return [("mean validation ratio", f"{means[known[-1]]:.3f}", note)]


def _duration_tile(record: RunRecord) -> list[tuple[str, str, str]]:
    speed = record.train.scalar["tokens_per_sec"]
    speed = speed[np.isfinite(speed)]
    rate = f"{series.count(float(np.median(speed)))} tokens/s" if len(speed) else ""
    if record.end is not None:
        return [("duration", series.duration(record.end.seconds), rate)]
    return [("speed", rate, "median")] if rate else []


def _memory_tile(record: RunRecord) -> list[tuple[str, str, str]]:
    """The device's peak where it was counted, and the host's."""
    if record.end is None or math.isnan(record.end.peak_host_bytes):
        return []
    host, device = record.end.peak_host_bytes, record.end.peak_device_bytes
    if math.isnan(device):
        return [("host memory", series.size(host), "at most")]
    return [("device memory", series.size(device), f"at most; host {series.size(host)}")]


def row_means(values: Float[np.ndarray, "steps T"]) -> Float[np.ndarray, " steps"]:
    """Mean over the tasks present; NaN where there is none."""
    known = np.isfinite(values)
    total, number = np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1)
    return np.divide(total, number, out=np.full(len(values), math.nan), where=number > 0)


def _several(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + "s" * (number != 1)
