"""The first line of a session: what the run is."""

import dataclasses
import math
from datetime import datetime

from mft_jax.record import fields, schema
from mft_jax.record.fields import Json
from mft_jax.record.schema import Finding, ModelFacts, PackingFacts, Quantity, TaskCounts

Facts = type[ModelFacts] | type[PackingFacts] | type[TaskCounts] | type[Quantity] | type[Finding]


@dataclasses.dataclass(frozen=True)
class RunHeader:
    time: datetime
    version: str
    config: Json
    tasks: tuple[str, ...]
    model: ModelFacts
    data: dict[str, TaskCounts]  # by task
    packing: PackingFacts
    mesh: dict[str, int]
    devices: str
    planned_steps: int
    balancer_logs: dict[str, Quantity]  # the balancer's own titles; none in records of 0.1
    read_as: dict[str, str]  # what records were taken for, by task; none in records of 0.1
    findings: tuple[Finding, ...]  # none in records of 0.1
    epochs: float  # planned passes over the data; NaN in records of 0.1
    software: dict[str, str]  # versions by name, and `commit`; none in records of 0.1
    command: str  # that started the session; empty where it is not known
    attention: str  # how it is computed, and why so; empty where it is not known


def read_header(where: str, line: Json) -> RunHeader:
    """Raises `MftError` for a missing or mistyped value; `where` is "file:line" in its message."""
    tasks = fields.typed(where, line, "tasks", list)
    if not tasks or len(set(map(str, tasks))) != len(tasks):
        raise fields.malformed(where, f"tasks {tasks!r}", "a list of different task names")
    names = tuple(map(str, tasks))
    model, packing, mesh, data, config = (
        fields.typed(where, line, key, dict)
        for key in ("model", "packing", "mesh", "data", "config")
    )
    counts = {name: fields.typed(where, data, name, dict) for name in names}
    family = fields.typed(where, model, "family", str)
    return RunHeader(
        time=fields.stamp(where, line),
        version=fields.typed(where, line, "version", str),
        config=config,
        tasks=names,
        model=ModelFacts(family, **_numbers(where, model, ModelFacts, but="family")),
        data={name: TaskCounts(**_numbers(where, counts[name], TaskCounts)) for name in names},
        packing=PackingFacts(**_numbers(where, packing, PackingFacts)),
        mesh={axis: fields.whole(where, mesh, axis) for axis in mesh},
        devices=fields.typed(where, line, "devices", str),
        planned_steps=fields.whole(where, fields.typed(where, config, "loop", dict), "steps"),
        balancer_logs=_balancer_logs(where, line),
        read_as=_read_as(where, line, names),
        findings=_findings(where, line),
        epochs=fields.number(where, line, "epochs") if "epochs" in line else math.nan,
        software=_software(where, line),
        command=fields.typed(where, line, "command", str) if "command" in line else "",
        attention=fields.typed(where, line, "attention", str) if "attention" in line else "",
    )


def unknown_keys(line: Json) -> list[str]:
    """Keys of the run line that the schema does not name, those inside its parts included."""
    found = [repr(key) for key in line if key not in schema.RUN.keys()]
    parts = [("model", line["model"], ModelFacts), ("packing", line["packing"], PackingFacts)]
    parts += [("data", counts, TaskCounts) for counts in map(line["data"].get, line["tasks"])]
    parts += [("balancer_logs", log, Quantity) for log in line.get("balancer_logs", {}).values()]
    parts += [("findings", finding, Finding) for finding in line.get("findings", ())]
    for name, values, facts in parts:
        found += [f"'{name}.{key}'" for key in values if key not in _keys(facts)]
    return found


def _keys(facts: Facts) -> list[str]:
    return [field.name for field in dataclasses.fields(facts)]


def _numbers(where: str, values: Json, facts: Facts, but: str = "") -> dict[str, float]:
    return {key: fields.number(where, values, key) for key in _keys(facts) if key != but}


def _read_as(where: str, line: Json, tasks: tuple[str, ...]) -> dict[str, str]:
    told = fields.typed(where, line, "read_as", dict) if "read_as" in line else {}
    return {name: fields.typed(where, told, name, str) for name in tasks if name in told}


def _findings(where: str, line: Json) -> tuple[Finding, ...]:
    found = []
    for entry in fields.typed(where, line, "findings", list) if "findings" in line else ():
        if not isinstance(entry, dict):
            raise fields.malformed(where, f"{entry!r} under 'findings'", "an object")
        task = None if entry.get("task") is None else fields.typed(where, entry, "task", str)
        kind, text = (fields.typed(where, entry, key, str) for key in ("kind", "text"))
        found.append(Finding(kind, task, text))
    return tuple(found)


def _software(where: str, line: Json) -> dict[str, str]:
    software = fields.typed(where, line, "software", dict) if "software" in line else {}
    return {name: fields.typed(where, software, name, str) for name in software}


def _balancer_logs(where: str, line: Json) -> dict[str, Quantity]:
    logs = fields.typed(where, line, "balancer_logs", dict) if "balancer_logs" in line else {}
    quantities = {}
    for name in logs:
        log = fields.typed(where, logs, name, dict)
        quantities[name] = Quantity(
            title=fields.typed(where, log, "title", str),
            note=fields.typed(where, log, "note", str),
            reference=None
            if log.get("reference") is None
            else fields.number(where, log, "reference"),
            zero_based=fields.typed(where, log, "zero_based", bool),
            shown=fields.typed(where, log, "shown", bool),
        )
    return quantities
