"""A sample that is not finite is blamed on its own task, not on those of its row."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file, save_file

from mft_jax import testing
from mft_jax.config import resolve
from mft_jax.huggingface.tokenizers import load_tokenizer
from mft_jax.run import session
from mft_jax.run.blame import without_row_mates
from mft_jax.run.display import Display
from mft_jax.types import MftError, TaskSums

OWN = (4.0, np.inf, 6.0)


def test_only_suspects_are_computed_by_themselves():
    asked = []

    def own_nll(task):
        asked.append(task)
        return OWN[task]

    sums = TaskSums(np.array([np.nan, np.nan, 6.0]), np.ones(3))
    np.testing.assert_array_equal(without_row_mates(sums, own_nll).sum, [4.0, np.inf, 6.0])
    assert asked == [0, 1]


@pytest.mark.usefixtures("single_device", "shared_programs")
def test_a_validation_sample_that_is_not_finite_is_blamed_on_its_own_task(tmp_path):
    # The start of a whole run: model, rows and pass together decide who is blamed.
    config = testing.toy_config(tmp_path)
    tokenizer = load_tokenizer(Path(config.model.path), 4096)
    tokens = {
        task["name"]: set(tokenizer(Path(task["path"]).read_text())["input_ids"])
        for task in config.data.tasks
    }
    broken = min(tokens["rare"] - tokens["add"] - tokens["echo"])
    file = Path(config.model.path) / "model.safetensors"
    weights = load_file(file)
    weights["model.embed_tokens.weight"][broken] = np.nan
    save_file(weights, file)
    with pytest.raises(MftError, match="step 0: the validation loss of task 'rare'"):
        session.train(resolve(config), tmp_path / "run", Display(Console(file=io.StringIO())))
