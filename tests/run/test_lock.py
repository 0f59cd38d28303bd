"""One run at a time holds a folder, on file systems with locks and without."""

import errno
import json
import os

import filelock
import pytest

from mft_jax.run import lock
from mft_jax.run.lock import locked
from mft_jax.types import MftError


class WithoutLocks(filelock.FileLock):
    """A lock on a file system that has none."""

    def acquire(self, *args, **kwargs):
        raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("has_locks", [True, False])
def test_a_second_run_is_refused_and_told_who_holds_the_folder(tmp_path, monkeypatch, has_locks):
    if not has_locks:
        monkeypatch.setattr(lock, "FileLock", WithoutLocks)
    run = tmp_path / "run"
    with locked(run):
        with pytest.raises(MftError, match=rf"another run is using .*process {os.getpid()} on "):
            with locked(run):
                raise AssertionError("two runs hold one folder")
        (run / "kept").write_text("")
    assert [path.name for path in run.iterdir()] == ["kept"]
    with locked(run):
        pass  # it is free again


def test_the_lock_of_a_process_that_was_killed_does_not_hold(tmp_path):
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".lock.holder").write_text(json.dumps({"process": 1, "machine": "a", "since": ""}))
    with locked(tmp_path):
        held = json.loads((tmp_path / ".lock.holder").read_text())
    assert held["process"] == os.getpid()


def test_what_a_killed_process_left_half_is_removed_and_nothing_else(tmp_path):
    left = [".report.123.html", ".report.html.77.part", "metrics.jsonl.part", ".config.json.5.part"]
    kept = ["report.html", ".notes.html", "metrics.jsonl", "notes.part", "tmp_notes.txt"]
    for name in (*left, *kept):
        (tmp_path / name).write_text("")
    (tmp_path / "tmpabcd1234").mkdir()
    (tmp_path / "tmpkeep1234").mkdir()
    (tmp_path / "tmpkeep1234" / "data").write_text("")
    with locked(tmp_path):
        names = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".lock")}
    assert names == {*kept, "tmpkeep1234"}
