"""Compiled programs kept between runs, in the user's cache folder.

JAX keys them by the program, the compiler and the devices. A damaged one is compiled again.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from mft_jax.run.console import Say


def cache_folder() -> Path:
    """Where the platform keeps what can be made again, under `mft_jax/compiled`."""
    if sys.platform == "darwin":
        default = Path.home() / "Library" / "Caches"
    else:
        default = Path.home() / ".cache"
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if os.path.isabs(named) else default) / "mft_jax" / "compiled"


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
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # its files are executed
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        say(f"note: compiled programs are not kept for the next start ({error})")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()  # what was compiled before has settled that there is none


def announced(
    call: Callable[..., Any], what: str, phase: Callable[[str], AbstractContextManager[None]]
) -> Callable[..., Any]:
    """The jitted `call`, whose first call, which compiles it, is made inside `phase(what)`."""
    seen = False

    def first_aloud(*arguments: Any) -> Any:
        nonlocal seen
        if seen:
            return call(*arguments)
        with phase(what):
            result = call(*arguments)
        seen = True
        return result

    return first_aloud
