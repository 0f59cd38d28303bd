"""The door: `mft COMMAND --flag=value`, the same as `python -m mft_jax`."""

import contextlib
import gc
import importlib
import os
import platform
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any, NoReturn

from mft_jax import __version__, imports
from mft_jax.cli.commands import COMMANDS
from mft_jax.run.interruption import CAN_GO_ON, NUMBERS
from mft_jax.run.words import fit_words


def usage() -> str:
    rows = [f"  mft {name:<8} {text}" for name, text in COMMANDS.items()]
    return (
        "usage: mft COMMAND [--flag=value ...]\n\n"
        + "\n".join(rows)
        + ("\n\n`mft COMMAND --help` lists a command's flags; `mft --version` says what is run.")
    )


def version() -> str:
    """This release, and what its numbers depend on."""
    parts = {"mft_jax": __version__, "Python": platform.python_version()}
    parts |= {name: metadata.version(name) for name in ("jax", "jaxlib")}
    return ", ".join(f"{name} {number}" for name, number in parts.items())


def main(argv: Sequence[str] | None = None) -> None:
    try:
        try:
            _call(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # what cannot be printed is found here, not while Python ends
    except BrokenPipeError:
        # The reader of a pipe has ended, as in `mft config | head`. Python flushes once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _call(arguments: list[str]) -> NoReturn:
    """Run the command that the arguments name, and end with its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0 if arguments else 2)
    if arguments[0] in ("--version", "-version", "version"):
        print(version())
        sys.exit(0)
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"mft: unknown command {name!r}\n\n{usage()}", file=sys.stderr)
        sys.exit(2)
    # Transformers advises at its import to install torch, which is not needed.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    with _ended_by_signals(name), imports.timed():
        from absl import logging

        from mft_jax.types import MftError, visible

        command = importlib.import_module(f"mft_jax.cli.{name}")
    # The objects of modules stay: collecting garbage need not look at them again and again.
    gc.freeze()
    # Orbax warns of its own defaults at every start; what goes wrong is raised.
    logging.set_verbosity(logging.FATAL)
    try:
        sys.exit(command.run(rest))
    except MftError as error:
        _complain(f"mft {name}: {error}")
        sys.exit(2)
    except BrokenPipeError:
        raise
    except OSError as error:
        place = "" if error.filename is None else f" {error.filename}"
        words = visible(f"cannot read or write{place}: {error.strerror or error}")
        _complain(f"mft {name}: {words}")
        sys.exit(2)
    except MemoryError as error:
        _complain(
            f"mft {name}: out of host memory ({visible(str(error)) or 'no more could be had'}); "
            "expected room for the data of all tasks as tokens, and one tensor of the model; use "
            "fewer samples (data.tasks[].max_samples) or a larger machine"
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"mft {name}: interrupted", file=sys.stderr)
        sys.exit(130)


def _complain(message: str) -> None:
    """Print an error; on a terminal it is wrapped between words."""
    width = shutil.get_terminal_size().columns
    print(fit_words(message, width) if sys.stderr.isatty() else message, file=sys.stderr)


@contextlib.contextmanager
def _ended_by_signals(name: str) -> Iterator[None]:
    """Signals that end the process while modules are imported: Ctrl-C, and for `train` those that
    stop a run, with the exit code of a run that can go on.

    An exception could come up in the middle of a module that does not expect it, and be shown with
    all of its way. So this module imports nothing but what is cheap before it is called.
    """
    training = name == "train"
    code = CAN_GO_ON if training else 130
    again = "; the same command continues" if training else ""

    def end(number: int, frame: Any) -> None:
        os.write(2, f"mft {name}: interrupted{again}\n".encode())
        os._exit(code)

    taken = NUMBERS if training else [signal.SIGINT]
    if threading.current_thread() is not threading.main_thread():
        taken = []
    taken = [number for number in taken if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
