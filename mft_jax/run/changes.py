"""Settings that a run changes on its way, asked for by `--resume_with`.

They are part of the run from then on: `config.json` keeps them, the record has an event, and the
command that started the run resumes it with them.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mft_jax import optim
from mft_jax.config import CHANGEABLE, TrainConfig, is_one_of, resolve, to_dict
from mft_jax.run.epochs import EpochPlan, settled
from mft_jax.run.folder import read_changes, read_config
from mft_jax.run.saved import has_checkpoint
from mft_jax.settings import settings
from mft_jax.types import MftError, suggest

EXAMPLE = "--resume_with=optim.learning_rate=1e-4,loop.steps=2000"


def parse(text: str) -> dict[str, Any]:
    """`key=value,key=value` as values by name; `resolve` looks at their kinds.

    >>> parse("optim.learning_rate=1e-4,loop.steps=2000,loop.on_nonfinite=skip")
    {'optim.learning_rate': 0.0001, 'loop.steps': 2000, 'loop.on_nonfinite': 'skip'}
    """
    wanted: dict[str, Any] = {}
    for part in text.split(",") if text else ():
        key, equals, value = (word.strip() for word in part.partition("="))
        if not (key and equals and value):
            raise MftError(f"--resume_with={text}: expected settings such as {EXAMPLE}")
        wanted[key] = _value(value)
    return wanted


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@dataclasses.dataclass(frozen=True)
class Change:
    """One setting that is another from now on."""

    key: str
    before: Any
    after: Any


@dataclasses.dataclass(frozen=True)
class Continuation:
    """How a run continues.

    config   with all that was changed since the run began
    changes  what is new in it
    resized  whether the number of steps is, or was, changed
    earlier  (step, change) of what was changed before
    """

    config: TrainConfig
    changes: tuple[Change, ...] = ()
    resized: bool = False
    earlier: tuple[tuple[int, Change], ...] = ()

    def at(self, step: int) -> tuple[Change, ...]:
        """All that is changed at the checkpoint of `step`, also by a session that went no further.

        It belongs to the steps from there on, which have not been taken under it.
        """
        return (*(change for made_at, change in self.earlier if made_at == step), *self.changes)

    def check(self, step: int, plan: EpochPlan) -> None:
        """Raise `MftError` where nothing is left to do after the checkpoint of `step`, or where a
        change has no effect."""
        keys, loop = {change.key for change in self.changes}, self.config.loop
        if "loop.steps" in keys and loop.epochs is not None:
            raise MftError(
                f"--resume_with=loop.steps={loop.steps}: loop.epochs={loop.epochs:g} decides how "
                "many steps the run has, so this would change nothing; change loop.epochs"
            )
        steps = settled(self.config, plan).loop.steps
        if self.changes and step >= steps:
            more = (
                f"loop.steps={2 * step}"
                if loop.epochs is None
                else f"loop.epochs={2 * loop.epochs:g}"
            )
            where = (
                f"has already taken {step} steps, and {steps} are asked for"
                if step > steps
                else f"is at step {step} of {steps}"
            )
            raise MftError(
                f"--resume_with: the run {where}, so nothing would be trained under the new "
                f"settings; give it more steps, too, such as {more}"
            )

    def told(self, step: int, plan: EpochPlan) -> str:
        """The event of the record."""
        changes = self.at(step)
        changed = ", ".join(f"{c.key} {c.before!r} -> {c.after!r}" for c in changes)
        before = _with(self.config, {c.key: c.before for c in reversed(changes)})
        old, new = (settled(config, plan) for config in (before, self.config))
        return (
            f"from step {step} on {changed}; the learning rate follows warm-up and cosine decay "
            f"over {new.loop.steps} steps: that of step {step} is {_rate(new, step):.4g} (before: "
            f"{_rate(old, step):.4g})"
        )


def continuation(
    workdir: Path, config: TrainConfig, wanted: Mapping[str, Any], anew: bool = False
) -> Continuation:
    """How the run in `workdir` continues with the settings it was started with, and those `wanted`.

    Settings that were changed earlier stay changed, so that the first command still resumes.
    """
    _check_names(wanted)
    if anew and wanted:
        raise MftError(
            "--checkpoint=none begins anew, and --resume_with changes a run that continues: give "
            "one of them"
        )
    if anew or not has_checkpoint(workdir):
        if wanted:
            raise MftError(
                f"--resume_with: no checkpoint in {workdir} to go on from; set the values in "
                "the config or with --config.key=value, and give a new --workdir"
            )
        return Continuation(config)
    made = read_changes(workdir)
    started = {row["key"]: row["before"] for row in reversed(made)}
    now = _values(read_config(workdir)) if made or wanted else {}
    kept = {key: now[key] for key, value in started.items() if _values(config)[key] == value}
    after = _with(config, kept | dict(wanted))
    values = _values(after)
    changes = tuple(Change(k, now[k], values[k]) for k in wanted if values[k] != now[k])
    resized = any(
        key in ("loop.steps", "loop.epochs") for key in (*started, *(c.key for c in changes))
    )
    earlier = tuple((row["step"], Change(row["key"], row["before"], row["after"])) for row in made)
    return Continuation(after, changes, resized, earlier)


def _rate(config: TrainConfig, step: int) -> float:
    return np.asarray(optim.learning_rate(config.optim, config.loop.steps)(step)).item()


def _check_names(wanted: Mapping[str, Any]) -> None:
    known = [setting.name for setting in settings(TrainConfig)]
    for key in wanted:
        if key not in known:
            hint = suggest(key, known) or "see `mft config`"
            raise MftError(f"--resume_with: unknown setting {key!r}; {hint}")
        if not is_one_of(key, CHANGEABLE):
            rooms = " or ".join(sorted(name for name in CHANGEABLE if "." not in name))
            others = ", ".join(sorted(name for name in CHANGEABLE if "." in name))
            raise MftError(
                f"--resume_with: {key} decides what the state of the run means, so it cannot "
                f"change on the way; expected any setting of {rooms}, or one of {others}; "
                "everything else needs a new --workdir"
            )


def _values(config: TrainConfig) -> dict[str, Any]:
    """The values of the settings that may change, by name."""
    tree = to_dict(config)
    return {
        f"{room}.{name}": value
        for room in ("model", "optim", "loop", "mesh")
        for name, value in tree[room].items()
        if is_one_of(f"{room}.{name}", CHANGEABLE)
    }


def _with(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    tree = to_dict(config)
    for key, value in values.items():
        room, _, name = key.partition(".")
        tree[room][name] = value
    return resolve(tree) if values else config
