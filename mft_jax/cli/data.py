"""`mft data`: what the tasks hold, what became of long samples, how well the rows are packed."""

from collections.abc import Sequence

from absl import flags
from rich.console import Console
from rich.table import Table

from mft_jax.cli import arguments as args
from mft_jax.data.tokenization import TokenizedData, load_data
from mft_jax.huggingface.checkpoint import model_folder, read_model
from mft_jax.huggingface.tokenizers import load_tokenizer
from mft_jax.workdir import data_record, packing_record


def run(arguments: Sequence[str]) -> int:
    values = flags.FlagValues()
    args.config_flag(values)
    args.parse("data", "show what the tasks hold and how well they pack", arguments, values)
    config = args.resolved(values)
    folder = model_folder(config.model.path)
    tokenizer = load_tokenizer(folder, read_model(folder)[1].vocab_size)
    console = Console()
    with console.status(f"reading and tokenizing {len(config.data.tasks)} tasks"):
        data = load_data(config.data, tokenizer)
    console.print(task_table(data))
    packing = packing_record(data, config.data.row_length, config.loop.rows_per_step)
    console.print(
        f"{packing['rows']:,} rows of {packing['row_length']:,} tokens; real tokens in "
        f"{packing['packed']:.2%} of their positions "
        f"(dynamic padding {packing['dynamic']:.2%}, static padding {packing['static']:.2%})",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def task_table(data: TokenizedData) -> Table:
    """Counts per task; long samples are those of training and validation together."""
    rows = data_record(data)
    table = Table(title="tasks", title_justify="left")
    table.add_column("task")
    columns = list(next(iter(rows.values())))
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]:,}" for column in columns))
    return table
