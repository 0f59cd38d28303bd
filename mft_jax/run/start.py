"""Where a run begins: at the newest checkpoint that proves itself, at one asked for, or anew."""

import contextlib
import dataclasses
from pathlib import Path

from mft_jax.record.schema import CONFIG_FILE, METRICS_FILE, REPORT_FILE, STORAGE
from mft_jax.run import proof, saved
from mft_jax.run.aside import FOLDER as ASIDE
from mft_jax.run.aside import (
    Untold,
    copy_aside,
    forget_untold,
    keep_untold,
    read_untold,
    set_aside,
    time_of_day,
)
from mft_jax.run.checkpoints import Checkpoints
from mft_jax.run.folder import SAMPLE_FILE
from mft_jax.run.processes import is_first, of_first, on_first
from mft_jax.run.proof import State, Verdict
from mft_jax.run.recorder import event_record
from mft_jax.types import MftError

ANEW = "none"  # --checkpoint=none
ADAPTER = "adapter"  # that of the last session's best step
REPLACED_ANEW = (
    METRICS_FILE, CONFIG_FILE, SAMPLE_FILE, REPORT_FILE, saved.NEWEST_FILE, ADAPTER,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Start:
    """What a start found; nothing has been changed yet. All but `step` is the first process's.

    step      of the checkpoint that the run continues from; None: it begins anew
    replaced  the names in the folder of checkpoints that must go, and under which they are kept
    notes     what a reader of the record must know
    proven    what was found about the checkpoint
    time      the name of the folder where things are kept
    """

    workdir: Path
    step: int | None
    replaced: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    proven: str = ""
    time: str = dataclasses.field(default_factory=time_of_day)

    def make_way(self) -> None:
        """Move what stands in the way to where it is kept, on the first process."""
        forget_untold(self.workdir)
        keep_untold(self.workdir, Untold(self.time, self.notes))
        folder = self.workdir / saved.FOLDER
        moved = {folder / name: kept for name, kept in self.replaced.items()}
        if self.step is None:
            moved |= {self.workdir / name: name for name in REPLACED_ANEW}
        elif moved:
            moved[self.workdir / ADAPTER] = ADAPTER
            # These steps will be recorded again, with the same numbers or with others.
            copy_aside(self.workdir, self.time, self.workdir / METRICS_FILE)
        if any(source.exists() for source in moved):
            set_aside(self.workdir, self.time, moved)
        saved.note_newest(self.workdir, self.step)

    def events(self, notes: list[str]) -> list[dict]:
        """The notes, and more of them, as lines of the record."""
        step = self.step or 0
        return [event_record(step, STORAGE, note) for note in (*self.notes, *notes)]

    def told(self) -> None:
        """The record has the notes: the next start does not repeat them."""
        if is_first():
            forget_untold(self.workdir)


def find_start(workdir: Path, which: str) -> Start:
    """`which`: "" or "last" (the newest that can be used), "best", a step, or "none" (begin anew).

    All processes must call it. Raises `MftError` where there is none of that, where it is not known
    whether a checkpoint is good, and where a run was recorded whose checkpoints are missing.
    """
    asked = None
    if which not in ("", "last", ANEW):
        with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
            asked = checkpoints.chosen_step(which)

    def find() -> Start:
        return _anew(workdir) if which == ANEW else _find(workdir, asked)

    start = on_first(f"begin in {workdir}", find)
    step = of_first(-1 if start is None or start.step is None else start.step)
    return start or Start(workdir, None if step < 0 else step)


def _anew(workdir: Path) -> Start:
    there = {str(step): f"checkpoint_{step}" for step in saved.steps_in(workdir)}
    return Start(workdir, None, there)


def _find(workdir: Path, asked: int | None) -> Start:
    steps = saved.steps_in(workdir)[::-1]
    if not steps:
        _check_nothing_saved(workdir)
        return Start(workdir, None)
    lost: dict[int, Verdict] = {}
    for step in steps if asked is None else [asked]:
        verdict = proof.examine(workdir / saved.FOLDER / str(step))
        if asked is not None or not verdict.is_lost:
            break
        lost[step] = verdict
    else:
        raise MftError(
            "no checkpoint of this run can be used:\n  "
            + "\n  ".join(verdict.text for verdict in lost.values())
            + f"\nnothing was changed: put them back from a copy, or begin anew: "
            f"--checkpoint={ANEW} keeps what is there in {workdir / ASIDE}"
        )
    proof.require(verdict, [other for other in steps if other != step])
    untold = read_untold(workdir)
    start = Start(workdir, step, proven=verdict.text, time=untold.time)
    newer = [other for other in steps if other > step]
    names = {
        str(other): f"{lost[other].state.value}_checkpoint_{other}"
        if other in lost
        else f"checkpoint_{other}"
        for other in newer
    }
    notes = _notes(workdir, start, names, lost, steps[0], verdict)
    # Of the same time, so that a note about a move that did not come to pass is the same again.
    notes = tuple(dict.fromkeys((*untold.notes, *notes)))
    return dataclasses.replace(start, replaced=names, notes=notes)


def _notes(
    workdir: Path,
    start: Start,
    names: dict[str, str],
    lost: dict[int, Verdict],
    newest: int,
    verdict: Verdict,
) -> tuple[str, ...]:
    aside = workdir / ASIDE / start.time
    from_here = f"the run continues from step {start.step}"
    notes = [
        f"{found.text}; it is kept as {aside / names[str(step)]}, and {from_here}"
        for step, found in lost.items()
    ]
    if asked := sorted(int(name) for name in names if int(name) not in lost):
        notes.append(
            f"{from_here}, as was asked; newer checkpoints ({', '.join(map(str, asked))}) and the "
            f"record as it was are kept in {aside}"
        )
    if (noted := saved.newest_noted(workdir) or 0) > newest:
        notes.append(
            f"the checkpoint of step {noted}, the newest that was saved, is missing from "
            f"{workdir / saved.FOLDER}; {from_here}"
        )
    if verdict.state is State.UNPROVEN:
        notes.append(verdict.text)
    return tuple(notes)


def _check_nothing_saved(workdir: Path) -> None:
    """Raise `MftError` where a run was recorded that has saved, or may have, but nothing is there.

    A run that ended before its first checkpoint begins anew; its record is kept.
    """
    noted, record = saved.newest_noted(workdir), workdir / METRICS_FILE
    if noted == 0 or (noted is None and not _has_steps(record)):
        return
    missing = [path for path in (workdir / CONFIG_FILE, record) if not path.exists()]
    was = f"one was saved at step {noted}" if noted else "it has training steps"
    raise MftError(
        f"{workdir} holds a run ({was}), but no checkpoint: {workdir / saved.FOLDER} is empty or "
        f"missing{''.join(f', and so is {path}' for path in missing)}; nothing was changed: put it "
        f"back to resume, use a new --workdir, or begin anew: --checkpoint={ANEW} keeps what is "
        f"there in {workdir / ASIDE}"
    )


def _has_steps(record: Path) -> bool:
    if not record.is_file():
        return False
    with record.open("rb") as lines:
        return any(b'"kind": "train"' in line for line in lines)
