"""`mft data`: what the tasks hold, what their records were taken for, which samples are not used
whole, how well the rows pack, and what should be known before training."""

from collections.abc import Sequence

from absl import flags

from mft_jax.cli import arguments as args
from mft_jax.data.mixture import make_mixture
from mft_jax.data.packed_rows import packed_rows
from mft_jax.data.tasks import load_tasks
from mft_jax.huggingface.base_weights import read_model
from mft_jax.huggingface.folders import model_folder
from mft_jax.huggingface.tokenizers import load_tokenizer
from mft_jax.kept import open_kept
from mft_jax.run.console import open_console, sayer, task_progress
from mft_jax.run.data_view import show_data_notes
from mft_jax.run.epochs import epoch_plan, plan_line
from mft_jax.run.findings import find
from mft_jax.run.run_line import packing_facts, task_counts
from mft_jax.run.task_tables import data_table, packing_line


def run(arguments: Sequence[str]) -> int:
    values = flags.FlagValues()
    args.config_flag(values, arguments)
    args.parse("data", arguments, values)
    config = args.resolved(values)
    folder = model_folder(config.model.path)
    model_config = read_model(folder)[1]
    tokenizer = load_tokenizer(folder, model_config.vocab_size)
    console = open_console()
    with task_progress(console)() as on_work:
        data = load_tasks(config.data, tokenizer, on_work, open_kept(sayer(console)))
    packing = packing_facts(data, config.data.row_length, config.loop.rows_per_step)
    mixture = make_mixture(data.train_sizes, data.tasks, config.data)
    rows = packed_rows(data.train, config.data.row_length, config.seed, mixture)
    plan = epoch_plan(config.loop, rows, mixture)
    console.print(data_table(task_counts(data, mixture)))
    sayer(console)(packing_line(packing))
    sayer(console)(plan_line(plan, config.loop))
    read_as = dict(zip(data.tasks.names, data.read_as, strict=True))
    show_data_notes(console, read_as, find(config, data, plan, model_config.max_positions))
    return 0
