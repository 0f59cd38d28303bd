"""A run's folder: what it was started with, and whether it may be resumed.

config.json      the resolved configuration, what an imported adapter made of it, and fingerprints
                 of the base weights and the tokenized data
metrics.jsonl    the record          checkpoints/   see `checkpoints`
report.html      the report          adapter/       the PEFT adapter, at the end
"""

import contextlib
import dataclasses
import fcntl
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mft_jax.config import TrainConfig, differences, resolve, to_dict
from mft_jax.data.tasks import TokenizedData
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.huggingface.base_weights import fingerprint as base_fingerprint
from mft_jax.record.files import write_whole
from mft_jax.record.schema import CONFIG_FILE
from mft_jax.run.base_model import Prepared
from mft_jax.run.batches import Data
from mft_jax.run.checkpoints import has_checkpoint
from mft_jax.types import Batch, MftError

SAMPLE_FILE = "sample.npz"
LOCK_FILE = ".lock"
SAMPLE_ROWS = 4


def fingerprint(data: TokenizedData) -> dict[str, int]:
    """A checksum of each task's tokens, training and validation."""
    prints = {}
    for name, train, valid in zip(data.tasks.names, data.train, data.valid, strict=True):
        arrays = (train.tokens, train.offsets, valid.tokens, valid.offsets)
        check = 0
        for array in arrays:
            # The buffer of a contiguous array is read in place, without a copy.
            check = zlib.crc32(np.ascontiguousarray(array).data, check)
        prints[name] = check
    return prints


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Hold a run's folder: one process at a time, and no folder that is something else."""
    if any(sign in str(workdir.absolute()) for sign in "*?[]"):
        raise MftError(
            f"--workdir={workdir}: checkpoints in a folder with one of * ? [ ] in its path could "
            "not be read again; choose another name"
        )
    if (workdir / CONFIG_FILE).exists():
        _read(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / LOCK_FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MftError(
                f"a run is going on in {workdir}; wait for it, stop it, or choose another --workdir"
            ) from error
        try:
            yield
        finally:
            (workdir / LOCK_FILE).unlink(missing_ok=True)
            if not any(workdir.iterdir()):
                workdir.rmdir()


def _read(workdir: Path) -> dict[str, Any]:
    path = workdir / CONFIG_FILE
    try:
        started = json.loads(path.read_text(encoding="utf-8"))
        if {"config", "finetune", "base", "data"} <= started.keys():
            return started
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        pass  # the same message as for a file that holds something else
    raise MftError(
        f"{path} is not what `mft train` writes: {workdir} is no run's folder, or was damaged; "
        "choose another --workdir"
    )


def read_config(workdir: Path) -> TrainConfig:
    if not (workdir / CONFIG_FILE).is_file():
        raise MftError(
            f"{workdir} is no run's folder: it has no {CONFIG_FILE}; expected the --workdir of "
            "an earlier `mft train`"
        )
    return resolve(_read(workdir)["config"])


def saved_tuning(workdir: Path) -> FinetuneConfig | None:
    """The settings of a run that has a checkpoint, what an imported adapter said included."""
    if not has_checkpoint(workdir) or not (workdir / CONFIG_FILE).is_file():
        return None
    settings = _read(workdir)["finetune"]
    return FinetuneConfig(**{**settings, "targets": tuple(settings["targets"])})


def check_base(workdir: Path, model: Prepared) -> None:
    """Raise `MftError` where a run's base weights are not those that it was trained on."""
    if _read(workdir)["base"] != base_fingerprint(model.folder):
        raise MftError(
            f"{model.folder} does not hold the model that {workdir} was trained on (config.json or "
            "weights are others); put it back"
        )


def check_or_write_config(
    workdir: Path, config: TrainConfig, model: Prepared, data: Data, *, resumed: bool
) -> None:
    """Write what the run is started with; on resumption hold it against what it was."""
    path = workdir / CONFIG_FILE
    now: dict[str, Any] = {
        "config": to_dict(config),
        "finetune": dataclasses.asdict(model.finetune),
        "base": base_fingerprint(model.folder),
        "data": fingerprint(data.tokenized),
    }
    if resumed:
        if not path.exists():
            raise MftError(
                f"{workdir} holds checkpoints, but no {CONFIG_FILE} that says what they are of; "
                "put the file back, or use a new --workdir"
            )
        before = _read(workdir)
        changed = differences(before["config"], now["config"])
        if before["base"] != now["base"]:
            changed.append(f"the base model in {model.folder} (it is not what it was)")
        changed += [
            f"data of task {name!r} (its tokens are not what they were)"
            for name, check in now["data"].items()
            if before["data"].get(name) != check
        ]
        if changed:
            raise MftError(
                f"{workdir} holds checkpoints of another configuration:\n  "
                + "\n  ".join(changed)
                + "\nuse a new --workdir, or undo the change to resume (more steps are a new run, "
                "because the learning rate follows from them)"
            )
    write_whole(path, json.dumps(now, indent=2) + "\n")
    rows = Batch(*(leaf[:SAMPLE_ROWS] for leaf in next(iter(data.valid_pass))))
    np.savez(workdir / SAMPLE_FILE, **rows._asdict())


def read_sample(workdir: Path) -> Batch:
    """A few packed validation rows of the run."""
    path = workdir / SAMPLE_FILE
    if not path.is_file():
        raise MftError(f"{workdir} has no {SAMPLE_FILE}; expected the folder of `mft train`")
    with np.load(path, allow_pickle=False) as arrays:
        return Batch(**{name: arrays[name] for name in Batch._fields})
