from pathlib import Path

import pytest

from mft_jax.huggingface.output import check_free, new_folder
from mft_jax.types import MftError


def test_a_folder_appears_when_it_is_complete(tmp_path):
    output = tmp_path / "a" / "b"
    with new_folder(output) as partial:
        (partial / "file").write_text("x")
        assert not output.exists()
    assert (output / "file").read_text() == "x"
    assert [p.name for p in output.parent.iterdir()] == ["b"]


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), new_folder(tmp_path / "a") as partial:
        (partial / "file").write_text("x")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_without_overwrite(tmp_path):
    output = tmp_path / "a"
    output.mkdir()
    with new_folder(output) as partial:  # an empty folder may be written
        (partial / "old").touch()
    with pytest.raises(MftError, match="is not empty; nothing is overwritten"), new_folder(output):
        pass
    with pytest.raises(KeyError), new_folder(output, overwrite=True):
        raise KeyError
    assert (output / "old").exists()
    with new_folder(output, overwrite=True) as partial:
        (partial / "new").touch()
    assert [p.name for p in output.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(MftError, match="is a file"), new_folder(tmp_path / "a", overwrite=True):
        pass


@pytest.mark.parametrize("output", ["a/b/c", "/proc/nowhere/c", "x" * 300])
def test_a_place_that_cannot_hold_a_folder_is_refused_before_the_work(
    tmp_path, monkeypatch, output
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").touch()
    with pytest.raises(MftError, match="cannot be made"):
        check_free(Path(output))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MftError, match=f"choose a name in it, such as {tmp_path / 'model'}"):
        check_free(Path("."))
    with new_folder(Path("x/../a")) as partial:
        (partial / "file").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_files_that_others_wrote_meanwhile_are_kept(tmp_path):
    output = tmp_path / "a"
    with pytest.raises(MftError, match="is not empty"), new_folder(output) as partial:
        (partial / "mine").touch()
        output.mkdir()
        (output / "theirs").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "theirs"]


def test_partial_folders_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".a.partial").mkdir()
    (tmp_path / ".a.partial" / "half").touch()
    with new_folder(tmp_path / "a") as partial:
        assert list(partial.iterdir()) == []
