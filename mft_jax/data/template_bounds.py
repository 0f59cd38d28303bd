"""Bounds on what a chat template may take for one record. A template is a program from elsewhere.

It runs in jinja's sandbox, which keeps it from the machine's files, but not from running forever or
from filling the memory.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import jinja2

from mft_jax.types import MftError

# A record takes about a millisecond and a few kilobytes.
MAX_SECONDS = 20.0
MAX_BYTES = 1 << 32
MAX_CHARACTERS = 1 << 28
ADDRESS_SPACE = Path("/proc/self/statm")  # its first number, in pages


class TemplateTimeout(Exception):
    """Raised inside a template that has run for too long."""


@contextlib.contextmanager
def bounded(where: str, name: str) -> Iterator[None]:
    """Rendering of one record, in bounded time and memory. Raises `MftError` with `where` and the
    tokenizer's `name`; a template that wants more memory gets a `MemoryError`."""
    try:
        with _bounded_memory(), _bounded_time():
            yield
    except TemplateTimeout as error:
        raise MftError(
            f"{where}: the chat template of {name!r} had not finished the record after "
            f"{MAX_SECONDS:g} s; expected milliseconds; use another template"
        ) from error


def check_length(text: str, where: str, name: str) -> None:
    """Raise `MftError` for a record that a template has made longer than any row."""
    if len(text) > MAX_CHARACTERS:
        raise MftError(
            f"{where}: the chat template of {name!r} makes {len(text):,} characters of the record; "
            f"expected at most {MAX_CHARACTERS:,}; use another template"
        )


def check_operators(template: str | Mapping[str, str] | None, name: str) -> None:
    """Raise `MftError` for a template with powers of numbers, which no chat needs: one of a large
    number is a single operation that no bound can interrupt."""
    texts = [template] if isinstance(template, str) else list((template or {}).values())
    try:
        tokens = [token for text in texts for token in jinja2.Environment().lex(text)]
    except jinja2.TemplateSyntaxError:
        return  # rendering names it, with the record
    if any(kind == "operator" and value == "**" for _, kind, value in tokens):
        raise MftError(
            f"the chat template of {name!r} computes a power (**), which may take forever; "
            "expected text, roles and messages only; use another template"
        )


@contextlib.contextmanager
def _bounded_time() -> Iterator[None]:
    # Only the main thread may set an alarm, and only it can be interrupted by one.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGALRM, _stop)
    before = signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
        signal.signal(signal.SIGALRM, handler)


def _stop(signal_number: int, frame: object) -> NoReturn:
    raise TemplateTimeout


@contextlib.contextmanager
def _bounded_memory() -> Iterator[None]:
    if not ADDRESS_SPACE.is_file():  # macOS, which has no such limit either
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(ADDRESS_SPACE.read_text().split()[0]) * resource.getpagesize()
    wanted = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([used + MAX_BYTES, *wanted]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
