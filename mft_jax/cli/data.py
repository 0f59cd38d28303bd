"""`mft data`: what the tasks hold, what became of long samples, how well the rows are packed."""

from collections.abc import Sequence

from absl import flags
from rich.console import Console

from mft_jax.cli import arguments as args
from mft_jax.data.tokenization import load_data, task_mixture
from mft_jax.huggingface.base_weights import read_model
from mft_jax.huggingface.folders import model_folder
from mft_jax.huggingface.tokenizers import load_tokenizer
from mft_jax.run.display import data_table, packing_line
from mft_jax.run.folder import data_record, packing_record


def run(arguments: Sequence[str]) -> int:
    values = flags.FlagValues()
    args.config_flag(values, arguments)
    args.parse("data", arguments, values)
    config = args.resolved(values)
    folder = model_folder(config.model.path)
    tokenizer = load_tokenizer(folder, read_model(folder)[1].vocab_size)
    console = Console(markup=False)
    with console.status(f"reading and tokenizing {len(config.data.tasks)} tasks"):
        data = load_data(config.data, tokenizer)
    packing = packing_record(data, config.data.row_length, config.loop.rows_per_step)
    console.print(data_table(data_record(data, task_mixture(data, config.data))))
    console.print(packing_line(packing), highlight=False, soft_wrap=True)
    return 0
