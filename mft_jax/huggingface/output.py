"""Output folders that appear whole or not at all."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mft_jax.types import MftError


@contextlib.contextmanager
def new_folder(output: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder to write into, renamed to `output` when the block ends without an error.

        with new_folder(Path("runs/a/adapter")) as folder: ...

        runs/a/.adapter.partial   while the block runs; removed if it raises
        runs/a/adapter            after it

    Raises `MftError` where `output` exists and is not an empty folder, at the start or at the end.
    With `overwrite` an existing folder stays until the new one is complete, and is then replaced.
    """
    check_free(output, overwrite=overwrite)
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    previous = output.with_name(f".{output.name}.previous")
    for stale in (partial, previous):  # of a process that was killed
        if stale.exists():
            shutil.rmtree(stale)
    partial.mkdir()
    try:
        yield partial
        check_free(output, overwrite=overwrite)  # another process may have written there
        if overwrite and output.exists():
            output.rename(previous)
        partial.rename(output)  # replaces only an empty folder
    except BaseException:
        shutil.rmtree(partial)
        raise
    if previous.exists():
        shutil.rmtree(previous)


def check_free(output: Path, *, overwrite: bool = False) -> None:
    """Raise `MftError` unless `output` may be written. To be called before the long work."""
    output = output.resolve()
    try:
        if output.exists() and not output.is_dir():
            raise MftError(
                f"{output} is a file; expected the name of a folder to write; choose another"
            )
        if output.is_dir() and not overwrite and any(output.iterdir()):
            raise MftError(
                f"{output} exists and is not empty; nothing is overwritten: choose another folder, "
                "or remove it first"
            )
        if output.is_mount() or output == Path.cwd():
            raise MftError(
                f"{output} is the current folder or a mount point, which no new folder can "
                f"replace; choose a name in it, such as {output / 'model'}"
            )
        parent = next(folder for folder in output.parents if folder.exists())
        tempfile.TemporaryDirectory(dir=parent).cleanup()
    except OSError as error:
        raise MftError(f"{output} cannot be made ({error}); choose another folder") from error
