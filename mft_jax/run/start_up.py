"""The start of a run, from the imports to the first step: what its parts took."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from mft_jax import imports

Phase = Callable[[str], AbstractContextManager[None]]
SHORTEST_SECS = 0.05  # what took less is not named


class StartUp:
    """Seconds by part. What happens inside a part that stands inside another counts for it alone,
    so the parts add up."""

    def __init__(self):
        self.imported = imports.taken()
        self.began = time.monotonic()
        self.seconds = {"import": self.imported}
        self.inside: list[float] = []  # of the parts that are open, what parts inside them took

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        self.seconds.setdefault(name, 0.0)  # parts are told in the order in which they begin
        self.inside.append(0.0)
        try:
            yield
        finally:
            took = time.monotonic() - began
            own = took - self.inside.pop()
            self.seconds[name] += own
            if self.inside:
                self.inside[-1] += took

    def as_part(self, name: str, phase: Phase) -> Phase:
        """A `phase` that counts for a part."""

        @contextlib.contextmanager
        def counted(what: str) -> Iterator[None]:
            with self.part(name), phase(what):
                yield

        return counted

    def ready(self) -> str:
        """What the start has taken up to now, in one line."""
        total = self.imported + time.monotonic() - self.began
        parts = {**self.seconds, "other": total - sum(self.seconds.values())}
        named = (f"{name} {took:.1f}" for name, took in parts.items() if took >= SHORTEST_SECS)
        return f"ready in {total:.1f} s: {', '.join(named)}"
