"""What every test runs under: eight CPU devices, checked shapes, no silent broadcasting."""

import os

# Before the first import of jax, which reads them once.
os.environ["JAX_PLATFORMS"] = "cpu"
# Tiny programs run once or twice: compiling them fast matters more than running them fast.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        os.environ.get("XLA_FLAGS", ""),
    ]
)

from jaxtyping import install_import_hook  # noqa: E402

# PEP 484: where a float is asked for, an int will do.
install_import_hook(
    "mft_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

import functools  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

from mft_jax.models.families import FAMILIES  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# The same tiny programs are compiled by many tests, and by the next run of them.
jax.config.update(
    "jax_compilation_cache_dir", str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "jax")
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
# The processes that tests start keep to the same.
os.environ["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# A file's tests stay in one worker (`--dist=loadfile`), for they share fixtures and programs. The
# dearest files are begun first, so that no worker is left with one of them at the end.
DEAREST = (
    "test_families_end_to_end.py",
    "test_invariance.py",
    "test_gradients.py",
    "test_loop.py",
    "test_commands.py",
    "test_interruption.py",
    "test_peft_parity.py",
    "test_families.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(DEAREST)}
    items.sort(key=lambda item: order.get(item.path.name, len(DEAREST)))


@pytest.fixture(scope="module")
def single_device() -> Iterator[None]:
    """A machine with one device: its programs compile twice as fast as those of a mesh."""
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *backend: first)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared corpora: $MFT_SHARED_DATA, or `../shared/data` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MFT_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no shared corpora at {folder}; set MFT_SHARED_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def transformers_model() -> Callable[..., Any]:
    """`make(family, variant) -> model` of transformers, with random weights of a size that matters.

    Made once: a test that changes it copies it.
    """
    torch = pytest.importorskip("torch", reason="parity needs the extra `parity` (torch)")
    transformers = pytest.importorskip("transformers")

    @functools.cache
    def make(family: str, variant: str = "") -> Any:
        options = FAMILIES[family].tiny_config(variant)
        options.pop("dtype")
        hf_config = transformers.AutoConfig.for_model(options.pop("model_type"), **options)
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(
            hf_config, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    return make
