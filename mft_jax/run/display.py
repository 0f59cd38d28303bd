"""What a person sees of a run: the doors to the console for everything that shows something."""

from rich.console import Console

from mft_jax.record.columns import RunRecord
from mft_jax.run.console import read_progress, sayer, task_progress
from mft_jax.run.start_up import StartUp
from mft_jax.run.task_tables import final_table
from mft_jax.run.view import RunView
from mft_jax.types import TaskTable


class Display:
    """What a run shows to a person. Nothing else of a run knows the console.

    say(line)       print one line, as it is; on a terminal, wrapped between words
    progress(name)  show a bar while the bytes of `name` are read
    task_progress() show a bar while tasks are read and tokenized
    start_up        what the parts of the start take, since the call that it belongs to began
    """

    def __init__(self, console: Console):
        self.console = console
        self.say = sayer(console)
        self.progress = read_progress(console)
        self.task_progress = task_progress(console)
        self.start_up = StartUp()

    def run_view(self, tasks: TaskTable, total_steps: int, log_every_steps: int) -> RunView:
        """The view of the steps, to be closed."""
        return RunView(self.console, tasks, total_steps, log_every_steps)

    def final(self, record: RunRecord) -> None:
        """Show the table of a run that has ended."""
        self.console.print(final_table(record))
