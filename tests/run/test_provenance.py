"""What a run was started with: versions, commit, command."""

import subprocess
import sys

import jax
import pytest

from mft_jax.run import provenance
from mft_jax.run.provenance import command, software, source_commit


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", "-C", folder, *who, *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no git: {done.stderr}")
    return done.stdout.strip()


def test_versions_are_those_of_this_process():
    found = software()
    assert found["jax"] == jax.__version__ and found["python"] in sys.version
    assert found.keys() >= {"python", "jax", "jaxlib"}


def test_the_commit_is_that_of_the_checkout_that_holds_the_package(tmp_path):
    package = tmp_path / "mft_jax"
    package.mkdir()
    (package / "a.py").write_text("a = 1\n")
    assert source_commit(package) is None  # neither a checkout nor installed
    git(tmp_path, "init", "-q")
    assert source_commit(package) is None  # no commit yet
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert source_commit(package) == commit
    (package / "a.py").write_text("a = 2\n")
    assert source_commit(package) == f"{commit}+changes"


def test_without_git_the_commit_is_not_known(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()

    def missing(*arguments, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(provenance.subprocess, "run", missing)
    assert source_commit(tmp_path / "mft_jax") is None


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["bin/mft", "train", "--workdir=a b"], "mft train '--workdir=a b'"),
        (["mft_jax/__main__.py", "train"], "python -m mft_jax train"),
        (["fit.py", "-x"], "fit.py -x"),
    ],
)
def test_the_command_is_written_as_a_shell_takes_it(monkeypatch, argv, expected):
    monkeypatch.setattr(sys, "argv", argv)
    assert command() == expected
