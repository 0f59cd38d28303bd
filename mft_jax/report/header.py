"""The first line of a session: what the run is."""

import dataclasses
from datetime import datetime

from mft_jax.report import fields
from mft_jax.report.fields import Json

DATA_COUNTS = (
    "train_samples", "valid_samples", "train_tokens", "trained_tokens", "valid_tokens",
    "dropped", "truncated", "split",
)  # fmt: skip
MODEL_NUMBERS = ("parameters", "trainable", "stored_bytes", "bits_per_weight")
PACKING_NUMBERS = ("row_length", "rows", "packed", "static", "dynamic")


@dataclasses.dataclass(frozen=True)
class RunHeader:
    time: datetime
    version: str
    config: Json
    tasks: tuple[str, ...]
    family: str
    model: dict[str, float]
    data: dict[str, dict[str, float]]  # task -> count name -> count
    packing: dict[str, float]
    mesh: dict[str, int]
    devices: str


def read_header(where: str, line: Json) -> RunHeader:
    tasks = fields.typed(where, line, "tasks", list)
    if not tasks or len(set(map(str, tasks))) != len(tasks):
        raise fields.malformed(where, f"tasks {tasks!r}", "a list of different task names")
    stamp = fields.typed(where, line, "time", str)
    try:
        time = datetime.fromisoformat(stamp)
    except ValueError as error:
        raise fields.malformed(where, f"time {stamp!r}", "an ISO 8601 time") from error
    model = fields.typed(where, line, "model", dict)
    data = fields.typed(where, line, "data", dict)
    packing = fields.typed(where, line, "packing", dict)
    mesh = fields.typed(where, line, "mesh", dict)
    counts = {task: fields.typed(where, data, task, dict) for task in map(str, tasks)}
    return RunHeader(
        time=time,
        version=fields.typed(where, line, "version", str),
        config=fields.typed(where, line, "config", dict),
        tasks=tuple(counts),
        family=fields.typed(where, model, "family", str),
        model={name: fields.number(where, model, name) for name in MODEL_NUMBERS},
        data={
            t: {name: fields.number(where, c, name) for name in DATA_COUNTS}
            for t, c in counts.items()
        },
        packing={name: fields.number(where, packing, name) for name in PACKING_NUMBERS},
        mesh={axis: int(fields.number(where, mesh, axis)) for axis in mesh},
        devices=fields.typed(where, line, "devices", str),
    )
