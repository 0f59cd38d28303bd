"""What a run was started with: versions, the source's commit, the command."""

import functools
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import mft_jax

GIT_SECONDS = 5


@functools.cache  # the code does not change after its import
def software() -> Mapping[str, str]:
    """Versions by name, and `commit` where the source is a git checkout or came from one."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    found = {"python": platform.python_version(), **versions}
    commit = source_commit(Path(mft_jax.__file__).parent)
    return {**found, "commit": commit} if commit else found


def source_commit(package: Path) -> str | None:
    """The commit of the checkout that holds the folder `package`, with "+changes" where tracked
    files differ from it; without a checkout, the one that pip installed it from."""
    if not (package.parent / ".git").exists():
        return _installed_commit(package)
    commit = _git(package.parent, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _git(package.parent, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return commit + "+changes" * bool(changed)


def _installed_commit(package: Path) -> str | None:
    """As pip notes it in `direct_url.json` (PEP 610)."""
    try:
        installed = importlib.metadata.distribution("mft-jax")
    except importlib.metadata.PackageNotFoundError:
        return None
    if installed.locate_file(package.name) != package:
        return None
    noted = json.loads(installed.read_text("direct_url.json") or "{}")
    return noted.get("vcs_info", {}).get("commit_id")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where it is not installed, refuses or takes too long."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def command() -> str:
    """The command line of this process, as a shell would take it."""
    program, *arguments = sys.argv or [""]
    name = Path(program).name
    if name == "__main__.py":
        return shlex.join(["python", "-m", Path(program).parent.name, *arguments])
    return shlex.join(["mft" if name == "mft" else program, *arguments])
