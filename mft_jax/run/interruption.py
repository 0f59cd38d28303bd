"""Signals that end a run between two steps, not within one: SIGTERM, Ctrl-C, SIGHUP, SIGUSR1.

Python runs a signal's handler in the main thread, and only between two of its own instructions:
not while XLA compiles. So a thread says at once that a signal has come, and ends a process that is
out of its time. A run in another thread than the main one cannot be stopped by signals.

The exit codes of `mft train`: 0 after a run to its end or to early stopping, `CAN_GO_ON` after one
that was interrupted, 2 after a mistake that its message names.
"""

import contextlib
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

CAN_GO_ON = 75  # EX_TEMPFAIL of sysexits.h: the same command continues where this one stopped
GRACE_SECONDS = 10.0  # for an end that has nothing to save
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # Slurm and others warn with the last one
NUMBERS = [signal.Signals[name] for name in NAMES if name in signal.Signals.__members__]


class StopSignals:
    """The signals that have come. The first one stops the run after its step; the second at once.

    seen             their numbers
    nothing_to_save  while it is true the first signal ends at once, too, by `KeyboardInterrupt`
    within           seconds from the first signal to the end of the process, saved or not; inf
                     where the process is not the run's own (a notebook's)
    """

    def __init__(self, within: float = math.inf):
        self.seen: list[int] = []
        self.nothing_to_save = True
        self.within = within

    def note(self, number: int, frame: object) -> None:
        """The handler, in the main thread."""
        self.seen.append(number)
        if self.nothing_to_save or len(self.seen) > 1:
            raise KeyboardInterrupt


@contextlib.contextmanager
def stop_signals(within: float = math.inf) -> Iterator[StopSignals]:
    """Take the signals; those that the process was started to ignore (`nohup`) stay ignored."""
    stop = StopSignals(within)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    taken = [number for number in NUMBERS if signal.getsignal(number) != signal.SIG_IGN]
    with _announced(stop, taken):
        before = {number: signal.signal(number, stop.note) for number in taken}
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _announced(stop: StopSignals, taken: list[Any]) -> Iterator[None]:
    """A thread that hears of each signal as soon as it has come."""
    hears, tells = socket.socketpair()
    tells.setblocking(False)
    before = signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
    announcer = _Announcer(stop, taken, hears)
    announcer.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        tells.send(b"\0")  # no signal has this number: the end
        announcer.join()
        tells.close()
        hears.close()


class _Announcer(threading.Thread):
    """Says what a signal does, and keeps the time."""

    def __init__(self, stop: StopSignals, taken: list[Any], hears: socket.socket):
        super().__init__(name="stop signals", daemon=True)
        self.stop, self.taken, self.hears = stop, taken, hears
        self.timers: list[threading.Timer] = []
        self.terminals = [fd for fd in (1, 2) if os.isatty(fd)]

    def run(self) -> None:
        told = 0
        while True:
            for number in self.hears.recv(64):
                if number == 0:
                    for timer in self.timers:
                        timer.cancel()
                    return
                if number in self.taken:
                    told += 1
                    self._announce(signal.Signals(number).name, told)

    def _announce(self, name: str, told: int) -> None:
        seconds = self.stop.within
        if told > 1:
            what, seconds = "ending at once", self._grace()
        elif self.stop.nothing_to_save:
            what, seconds = "nothing to save yet, ending", self._grace()
        else:
            limit = "" if seconds == math.inf else f", in at most {seconds:g} s"
            what = f"saving after this step, then ending{limit}; once more to end at once"
        _say(f"{name}: {what}")
        if seconds < math.inf:
            self.timers.append(threading.Timer(seconds, _end_now))
            self.timers[-1].daemon = True
            self.timers[-1].start()
        if any(not os.isatty(fd) for fd in self.terminals):
            self._leave_terminal()

    def _grace(self) -> float:
        return min(GRACE_SECONDS, self.stop.within) if self.stop.within < math.inf else math.inf

    def _leave_terminal(self) -> None:
        """Write to nowhere: a terminal that was closed answers every line with an error."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for fd in self.terminals:
            os.dup2(nowhere, fd)
        self.terminals = []


def _end_now() -> None:
    _say("the time to end is over: what is not saved by now is left out")
    os._exit(CAN_GO_ON)


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # the stream may be closed
        print(f"\n{line}", file=sys.stderr, flush=True)
