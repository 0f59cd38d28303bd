"""Compiled programs kept between runs, in the user's cache folder.

JAX keys them by the program, the compiler and the devices. A damaged one is compiled again.
"""

import dataclasses
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from mft_jax.kept import cache_root, limit_bytes, prune
from mft_jax.run.console import Say

FOLDER = "compiled"
MIN_SECONDS, JAX_MIN_SECONDS = "jax_persistent_cache_min_compile_time_secs", 1.0


def keep_compiled(say: Say) -> None:
    """Turn the persistent compilation cache on, unless the user has configured it through
    JAX (`JAX_COMPILATION_CACHE_DIR`, `JAX_ENABLE_COMPILATION_CACHE`, `jax.config`).

    Call it before the first compilation of a run. A folder that cannot be written is no error.
    """
    # By name, because a type checker does not know the attributes of `jax.config`.
    folder, enabled = (
        getattr(jax.config, f"jax_{name}")
        for name in ("compilation_cache_dir", "enable_compilation_cache")
    )
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or folder is not None or not enabled:
        return
    root, most_bytes = cache_root(), limit_bytes()
    if not most_bytes:
        return
    try:
        if root is None:
            raise FileNotFoundError("there is no home folder")
        prune(root, most_bytes)
        folder = root / FOLDER
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # its files are executed
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        say(f"note: compiled programs are not kept for the next start ({error})")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if (
        getattr(jax.config, MIN_SECONDS) == JAX_MIN_SECONDS
        and MIN_SECONDS.upper() not in os.environ
    ):
        # A start compiles dozens of programs that take less.
        jax.config.update(MIN_SECONDS, 0.0)
    compilation_cache.reset_cache()  # what was compiled before has settled that there is none


@dataclasses.dataclass
class Announced:
    """The jitted `call`, whose first call, which compiles it, is made inside `phase(what)`; `then`
    is called after it."""

    call: Any
    what: str
    phase: Callable[[str], AbstractContextManager[None]]
    then: Callable[[], None] | None = None
    seen: bool = False

    def __call__(self, *arguments: Any) -> Any:
        if self.seen:
            return self.call(*arguments)
        with self.phase(self.what):
            result = self.call(*arguments)
        self.seen = True
        if self.then is not None:
            self.then()
        return result

    def lower(self, *arguments: Any) -> Any:
        """The program that would be compiled for the arguments."""
        return self.call.lower(*arguments)
