"""Signals are answered at once, and what they end has a time limit."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mft_jax.run.interruption import CAN_GO_ON, NUMBERS, stop_signals

pytestmark = pytest.mark.usefixtures("usual_signals")


def compile_long(rounds: int = 200_000) -> None:
    """One instruction of Python that takes long, and lets other threads run, as XLA's compiler."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)
def test_each_stop_signal_is_noted_and_the_second_one_ends_at_once(number, capsys):
    with stop_signals() as stop:
        stop.nothing_to_save = False
        signal.raise_signal(number)
        assert stop.seen == [number]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    said = capsys.readouterr().err
    assert f"{number.name}: saving after this step, then ending; once more to end at once" in said
    assert f"{number.name}: ending at once" in said


def test_a_signal_is_answered_while_the_main_thread_cannot(monkeypatch):
    said = []
    monkeypatch.setattr("mft_jax.run.interruption._say", lambda _: said.append(time.monotonic()))
    with stop_signals(within=300) as stop:
        stop.nothing_to_save = False
        sender = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM))
        sender.start()
        compile_long()
        came_back = time.monotonic()
        sender.join()
    assert stop.seen and said[0] < came_back


def test_a_signal_with_nothing_to_save_ends_at_once(capsys):
    with pytest.raises(KeyboardInterrupt), stop_signals():
        signal.raise_signal(signal.SIGTERM)
    assert "SIGTERM: nothing to save yet, ending" in capsys.readouterr().err


def test_a_signal_that_the_process_was_started_to_ignore_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert not stop.seen
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_put_back_and_other_threads_take_none():
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    with contextlib.ExitStack() as stack:
        thread = threading.Thread(target=lambda: stack.enter_context(stop_signals()))
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGTERM) == before


def test_a_process_out_of_its_time_ends_without_the_save():
    program = (
        "import hashlib, signal\n"
        "from mft_jax.run.interruption import stop_signals\n"
        "with stop_signals(within=0.1) as stop:\n"
        "    stop.nothing_to_save = False\n"
        "    signal.raise_signal(signal.SIGUSR1)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == CAN_GO_ON == 75
    assert "SIGUSR1: saving after this step, then ending, in at most 0.1 s" in ended.stderr
    assert "the time to end is over" in ended.stderr and "Traceback" not in ended.stderr
