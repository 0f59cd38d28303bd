"""A run's folder: what it was started with, and whether it may be resumed.

config.json      the resolved configuration, what an imported adapter made of it, and fingerprints
                 of the base weights and the tokenized data
metrics.jsonl    the record          checkpoints/   see `checkpoints`, with checkpoints.json
report.html      the report          adapter/       the PEFT adapter, at the end
set_aside/       what a later start replaced, by its time
"""

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mft_jax.config import CHANGEABLE, TrainConfig, differences, is_one_of, resolve, to_dict
from mft_jax.data.tasks import TokenizedData
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.huggingface.adapter_export import CONFIG_FILE as ADAPTER_CONFIG
from mft_jax.huggingface.adapter_export import WEIGHTS_FILE as ADAPTER_WEIGHTS
from mft_jax.huggingface.base_weights import fingerprint as base_fingerprint
from mft_jax.record.files import write_whole
from mft_jax.record.schema import CONFIG_FILE
from mft_jax.run.base_model import BaseModelInfo
from mft_jax.run.batches import Data
from mft_jax.run.processes import check_equal, on_first
from mft_jax.run.saved import has_checkpoint
from mft_jax.settings import REPLACED
from mft_jax.types import Batch, MftError, foreign_code

SAMPLE_FILE = "sample.npz"
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


def check_is_run(workdir: Path) -> None:
    """Raise `MftError` where a folder has a `config.json` that is no run's."""
    if (workdir / CONFIG_FILE).exists():
        _read(workdir)


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
    return _resolved(workdir, _read(workdir))


def read_changes(workdir: Path) -> list[dict[str, Any]]:
    """The settings that were changed on the way, in their order: step, key, before, after."""
    return _read(workdir).get("changes", []) if (workdir / CONFIG_FILE).is_file() else []


def saved_tuning(workdir: Path) -> FinetuneConfig | None:
    """The tuning of a run that has a checkpoint, with the settings of an imported adapter."""
    if not has_checkpoint(workdir) or not (workdir / CONFIG_FILE).is_file():
        return None
    settings = _read(workdir)["finetune"]
    return FinetuneConfig(**{**settings, "targets": tuple(settings["targets"])})


def check_base(workdir: Path, base: BaseModelInfo) -> None:
    """Raise `MftError` where a run's base weights are not those that it was trained on."""
    if _read(workdir)["base"] != base_fingerprint(base.folder):
        raise MftError(
            f"{base.folder} does not hold the model that {workdir} was trained on (config.json or "
            "weights are others); put it back"
        )


def check_or_write_config(
    workdir: Path,
    config: TrainConfig,
    base: BaseModelInfo,
    data: Data,
    *,
    resumed: bool,
    make_way: Callable[[], None],
    changes: Sequence[dict[str, Any]] = (),
) -> None:
    """Write what the run is started with; on resumption compare it with what it was started with,
    but for the `changes` that are asked for: they are added to those of before. Nothing is changed
    where that is refused; then `make_way` moves what is replaced.

    One rule decides: settings by their values, base model, adapter and data by their content. All
    processes must call it, and must have been started with the same; the first one writes.
    """
    now: dict[str, Any] = {
        "config": to_dict(config),
        "finetune": dataclasses.asdict(base.tuning),
        "base": base_fingerprint(base.folder),
        "adapter": None if base.imported is None else adapter_checksum(base.imported.folder),
        "data": fingerprint(data.tokenized),
        "changes": list(changes),
    }
    started = json.dumps(now, indent=2) + "\n"
    check_equal("what is trained, or the data,", zlib.crc32(started.encode()))
    rows = Batch(*(leaf[:SAMPLE_ROWS] for leaf in next(iter(data.valid_pass))))
    on_first(f"start in {workdir}", lambda: _check_and_write(workdir, now, rows, resumed, make_way))


def _check_and_write(
    workdir: Path, now: dict[str, Any], rows: Batch, resumed: bool, make_way: Callable[[], None]
) -> None:
    path = workdir / CONFIG_FILE
    if resumed:
        if not path.exists():
            raise MftError(
                f"{workdir} holds checkpoints, but no {CONFIG_FILE} with their settings; "
                "put the file back, or use a new --workdir"
            )
        before = _read(workdir)
        if changed := _changes(workdir, before, now):
            raise MftError(
                f"{workdir} holds checkpoints of another configuration:\n  "
                + "\n  ".join(changed)
                + "\nuse a new --workdir, or undo the change to resume"
                + _way_to_change(changed)
            )
        now["adapter"] = before.get("adapter")  # its folder may be gone by now
        now["changes"] = [*before.get("changes", []), *now["changes"]]
    make_way()
    write_whole(path, json.dumps(now, indent=2) + "\n")
    np.savez(workdir / SAMPLE_FILE, **rows._asdict())


def _changes(workdir: Path, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Lines that name what has changed since the start of the run."""
    # An older version may have known fewer settings: they had what is now the default.
    asked_for = {change["key"] for change in now["changes"]}
    changed = [
        line
        for line in differences(to_dict(_resolved(workdir, before)), now["config"])
        if line.partition(":")[0] not in asked_for
    ]
    if before["base"] != now["base"]:
        changed.append(
            f"the base model in {now['config']['model']['path']} (its config.json or its weights "
            "are not those that the run was trained on)"
        )
    old, new = (saved["config"]["finetune"].get("adapter", "") for saved in (before, now))
    changed += _adapter_changes(old, new, before.get("adapter"))
    changed += [
        f"data of task {name!r} (its tokens have changed)"
        for name, check in now["data"].items()
        if before["data"].get(name) != check
    ]
    return changed


def _way_to_change(changed: list[str]) -> str:
    """How to resume all the same, where nothing but what may change on the way has changed."""
    keys = [line.partition(":")[0] for line in changed]
    if not all(is_one_of(key, CHANGEABLE) for key in keys):
        return ""
    new = [line.rpartition(" -> ")[2].strip("'") for line in changed]
    wanted = ",".join(f"{key}={value}" for key, value in zip(keys, new, strict=True))
    return f"; to go on with it from the last checkpoint, add --resume_with={wanted}"


def _adapter_changes(before: str, now: str, checksum: int | None) -> list[str]:
    """The adapter that training started from is part of the checkpoints: under its old path it is
    not read again, under another one it must be the same."""
    folder = Path(now).expanduser()
    if now == before or (now and before and folder.absolute() == Path(before)):
        return []
    if now and before and checksum is not None and (folder / ADAPTER_CONFIG).is_file():
        if adapter_checksum(folder) == checksum:
            return []
    return [f"finetune.adapter: {before!r} -> {now!r} (not known to be the same adapter)"]


def _resolved(workdir: Path, saved: dict[str, Any]) -> TrainConfig:
    try:
        return resolve(_without_replaced(saved["config"]))
    except MftError as error:
        raise MftError(
            f"{workdir / CONFIG_FILE} was written by another version of mft_jax, whose settings "
            f"this one does not know ({error}); resume with that version, or use a new --workdir"
        ) from error


def _without_replaced(saved: dict[str, Any], room: str = "") -> dict[str, Any]:
    """The saved settings but for those of earlier versions that decided no number."""
    return {
        key: _without_replaced(value, f"{room}{key}.") if isinstance(value, dict) else value
        for key, value in saved.items()
        if f"{room}{key}" not in REPLACED
    }


def adapter_checksum(folder: Path) -> int:
    """crc32 of an adapter's settings and weights."""
    check = 0
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        check = zlib.crc32((folder / name).read_bytes(), check)
    return check


def read_sample(workdir: Path) -> Batch:
    """A few packed validation rows of the run."""
    path = workdir / SAMPLE_FILE
    if not path.is_file():
        raise MftError(f"{workdir} has no {SAMPLE_FILE}; expected the folder of `mft train`")
    with foreign_code(
        f"{path} is not what `mft train` writes",
        "start the run once more as it was (`mft train`, also if it has finished): that writes it",
        also=(zipfile.BadZipFile, zlib.error),
    ):
        # Never pickle: an array of Python objects is refused.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Batch(**{name: arrays[name] for name in Batch._fields})
