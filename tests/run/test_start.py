"""A run begins at the newest checkpoint that proves itself; nothing recorded is ever deleted."""

from pathlib import Path

import pytest

from mft_jax.run import proof
from mft_jax.run.saved import newest_noted, note_newest, steps_in
from mft_jax.run.start import _anew, _find, find_start
from mft_jax.types import MftError


def written(workdir: Path) -> dict[str, bytes]:
    return {str(f.relative_to(workdir)): f.read_bytes() for f in workdir.rglob("*") if f.is_file()}


@pytest.fixture
def workdir(tmp_path) -> Path:
    """A run with checkpoints of steps 5, 10 and 20, of one small file for each item."""
    for step in (5, 10, 20):
        folder = tmp_path / "checkpoints" / str(step)
        for item in proof.ITEMS:
            (folder / item).mkdir(parents=True)
            (folder / item / "data").write_text(f"{item} of step {step}")
        proof.write_proof(folder)
    note_newest(tmp_path, 20)
    (tmp_path / "metrics.jsonl").write_text('{"kind": "run"}\n{"kind": "train", "step": 0}\n')
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    return tmp_path


def damage(workdir: Path, *steps: int) -> None:
    for step in steps:
        (workdir / "checkpoints" / str(step) / "training" / "data").write_text(
            f"Training of step {step}"
        )


def aside(workdir: Path) -> Path:
    (folder,) = (workdir / "set_aside").iterdir()
    return folder


def test_the_newest_whole_checkpoint_is_taken_without_a_word(workdir):
    before = written(workdir)
    start = find_start(workdir, "")
    assert (start.step, start.notes, start.replaced) == (20, (), {})
    assert "checkpoints/20 is as it was written: 4 files" in start.proven
    start.make_way()
    assert written(workdir) == before


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_it_is_used(workdir):
    damage(workdir, 20)
    before = written(workdir)
    start = find_start(workdir, "last")
    assert start.step == 10 and written(workdir) == before  # nothing is changed by finding
    (note,) = start.notes
    assert "checkpoints/20 is damaged: the bytes of training/data" in note
    assert "damaged_checkpoint_20, and the run continues from step 10" in note
    start.make_way()
    kept = aside(workdir)
    assert steps_in(workdir) == [5, 10] and newest_noted(workdir) == 10
    assert (kept / "damaged_checkpoint_20" / "cursor" / "data").read_text() == "cursor of step 20"
    assert (kept / "metrics.jsonl").read_bytes() == before["metrics.jsonl"]
    assert (kept / "adapter" / "adapter_config.json").exists()
    assert not (workdir / "adapter").exists()
    start.told()
    assert find_start(workdir, "").notes == ()  # said once


def test_notes_that_the_record_did_not_get_are_told_by_the_next_start(workdir):
    damage(workdir, 20)
    start = find_start(workdir, "")
    start.make_way()  # and the process ends before it opens the record
    again = find_start(workdir, "")
    assert again.notes == start.notes != ()
    again.make_way()
    assert find_start(workdir, "").notes == start.notes
    again.told()
    assert find_start(workdir, "").notes == ()


def test_a_note_about_a_move_that_did_not_come_to_pass_is_told_once(workdir, monkeypatch):
    damage(workdir, 20)
    monkeypatch.setattr("mft_jax.run.aside.time_of_day", iter(("first", "second")).__next__)
    start = find_start(workdir, "")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mft_jax.run.start.set_aside", killed)
        patch.setattr("mft_jax.run.start.copy_aside", killed)
        with pytest.raises(KeyboardInterrupt):
            start.make_way()
    assert find_start(workdir, "").notes == start.notes  # the same folder is named


def test_damaged_notes_of_an_earlier_start_are_named(workdir):
    (workdir / "untold.json").write_text('{"time": 3')
    assert "untold.json is damaged" in find_start(workdir, "").notes[0]


def test_checkpoints_of_an_older_version_are_used_with_a_note(workdir):
    for step in (5, 10, 20):
        (workdir / "checkpoints" / str(step) / proof.FILE).unlink()
    (workdir / "checkpoints.json").unlink()
    start = find_start(workdir, "")
    assert start.step == 20 and start.replaced == {}
    assert "has no checksums, because an older version of mft_jax wrote it" in start.notes[0]


def test_incomplete_and_damaged_ones_are_passed_over_one_by_one(workdir):
    damage(workdir, 20)
    folder = workdir / "checkpoints" / "10"
    (folder / proof.FILE).unlink()
    (folder / "cursor" / "data").unlink()
    (folder / "cursor").rmdir()
    start = find_start(workdir, "")
    assert start.step == 5 and len(start.notes) == 2
    assert start.replaced == {"20": "damaged_checkpoint_20", "10": "incomplete_checkpoint_10"}


def test_where_no_checkpoint_is_good_all_are_named_and_nothing_is_changed(workdir):
    damage(workdir, 5, 10, 20)
    before = written(workdir)
    with pytest.raises(MftError) as error:
        find_start(workdir, "")
    assert all(f"checkpoints/{step} is damaged" in str(error.value) for step in (5, 10, 20))
    assert "--checkpoint=none" in str(error.value) and written(workdir) == before


def test_one_that_cannot_be_read_for_now_is_not_passed_over(workdir, monkeypatch):
    def refused(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(proof, "_checksum", refused)
    before = written(workdir)
    with pytest.raises(MftError, match=r"checkpoints/20 cannot be read.*may be good"):
        find_start(workdir, "")
    assert written(workdir) == before


def test_a_chosen_step_keeps_the_newer_ones_and_the_record(workdir):
    start = _find(workdir, 5)
    assert start.step == 5 and "as was asked; newer checkpoints (10, 20)" in start.notes[0]
    start.make_way()
    assert steps_in(workdir) == [5] and newest_noted(workdir) == 5
    names = {path.name for path in aside(workdir).iterdir()}
    assert names == {"checkpoint_10", "checkpoint_20", "metrics.jsonl", "adapter"}
    assert (workdir / "metrics.jsonl").exists()


def test_a_chosen_step_that_is_damaged_is_refused_with_the_choice(workdir):
    damage(workdir, 10)
    with pytest.raises(MftError, match=r"nothing was changed: choose another one, --checkpoint=20"):
        _find(workdir, 10)


def test_lost_checkpoints_of_a_recorded_run_are_named_and_nothing_is_removed(workdir):
    for newest in (20, "unknown"):
        if newest == "unknown":  # as in runs of version 0.1
            (workdir / "checkpoints.json").unlink()
        (workdir / "checkpoints").rename(workdir / "elsewhere")
        before = written(workdir)
        with pytest.raises(MftError, match=r"holds a run .*no checkpoint: .* is empty or missing"):
            find_start(workdir, "")
        assert written(workdir) == before
        (workdir / "elsewhere").rename(workdir / "checkpoints")


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew_and_keeps_its_record(workdir):
    (workdir / "checkpoints").rename(workdir / "elsewhere")
    note_newest(workdir, None)
    before = written(workdir)
    start = find_start(workdir, "")
    assert start.step is None
    start.make_way()
    kept = aside(workdir)
    for name in ("metrics.jsonl", "config.json"):
        assert not (workdir / name).exists() and (kept / name).read_bytes() == before[name]


def test_beginning_anew_keeps_everything(workdir):
    before = written(workdir)
    _anew(workdir).make_way()
    kept = aside(workdir)
    assert steps_in(workdir) == [] and newest_noted(workdir) == 0
    assert (kept / "metrics.jsonl").read_bytes() == before["metrics.jsonl"]
    assert (kept / "adapter" / "adapter_config.json").exists()
    assert not (workdir / "adapter").exists()
    assert {f"checkpoint_{step}" for step in (5, 10, 20)} < {path.name for path in kept.iterdir()}


def test_a_newest_checkpoint_that_is_missing_is_noted_once(workdir):
    (workdir / "checkpoints" / "20").rename(workdir / "elsewhere")
    start = find_start(workdir, "")
    assert start.step == 10 and "step 20, the newest that was saved, is missing" in start.notes[0]
    start.make_way()
    start.told()
    assert find_start(workdir, "").notes == ()


def test_two_things_set_aside_in_one_second_are_both_kept(workdir):
    start = _find(workdir, 10)
    start.make_way()
    damage(workdir, 10)
    again = _find(workdir, None)
    type(again)(workdir, again.step, again.replaced, time=start.time).make_way()
    names = {path.name for path in aside(workdir).iterdir()}
    kept = {"checkpoint_20", "damaged_checkpoint_10", "metrics.jsonl", "metrics.jsonl.2"}
    assert names == {*kept, "adapter"}
