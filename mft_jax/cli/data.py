"""`mft data`: what the tasks hold, which samples are not used whole, how well the rows pack."""

from collections.abc import Sequence

from absl import flags

from mft_jax.cli import arguments as args
from mft_jax.data.mixture import make_mixture
from mft_jax.data.tasks import load_tasks
from mft_jax.huggingface.base_weights import read_model
from mft_jax.huggingface.folders import model_folder
from mft_jax.huggingface.tokenizers import load_tokenizer
from mft_jax.run.console import open_console, sayer, task_progress
from mft_jax.run.run_line import packing_facts, task_counts
from mft_jax.run.task_tables import data_table, packing_line


def run(arguments: Sequence[str]) -> int:
    values = flags.FlagValues()
    args.config_flag(values, arguments)
    args.parse("data", arguments, values)
    config = args.resolved(values)
    folder = model_folder(config.model.path)
    tokenizer = load_tokenizer(folder, read_model(folder)[1].vocab_size)
    console = open_console()
    with task_progress(console)() as on_work:
        data = load_tasks(config.data, tokenizer, on_work)
    packing = packing_facts(data, config.data.row_length, config.loop.rows_per_step)
    mixture = make_mixture(data.train_sizes, data.tasks, config.data)
    console.print(data_table(task_counts(data, mixture)))
    sayer(console)(packing_line(packing))
    return 0
