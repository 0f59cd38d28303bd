"""Tables laid out in a width so that no word and no number is broken."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.table import Table

from mft_jax.run.words import fit_words

Kind = Literal["name", "number", "words"]
SHORTEST_NAME = 8


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    name    of a task or a run: shortened in its middle where there is no room
    number  on one line, whole
    words   wrapped between words that have no `GLUE` between them
    """

    head: str
    kind: Kind = "number"


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way to show a table: columns and rows of text. `more`: a line below the last row."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    more: str = ""

    def widths(self, width: int, frame: int) -> list[int] | None:
        """The width of every column in a table of `width`, of which `frame` are its lines and
        spaces; None where it has no room."""
        wanted, least = self._wanted(), self.least()
        room = width - frame
        if sum(least) > room:
            return None
        # Names first: a shortened name is harder to read than words on two lines.
        found = list(least)
        for kind in ("name", "number", "words"):
            for place, column in enumerate(self.columns):
                if column.kind == kind:
                    spare = room - sum(found)
                    found[place] = min(wanted[place], least[place] + spare)
        return found

    def _wanted(self) -> list[int]:
        return [
            _longest([column.head, *cells])
            for column, cells in zip(self.columns, self._cells(), strict=True)
        ]

    def least(self) -> list[int]:
        """The widths below which a word or number would be broken, or a name cut to nothing."""
        least = []
        for column, cells, wanted in zip(self.columns, self._cells(), self._wanted(), strict=True):
            head = _longest(column.head.split())
            if column.kind == "name":
                least.append(min(wanted, max(SHORTEST_NAME, head)))
            elif column.kind == "number":
                least.append(max(_longest(cells), head))
            else:
                least.append(max(_longest(" ".join(cells).split(" ")), head))
        return least

    def _cells(self) -> list[list[str]]:
        return [[row[place] for row in self.rows] for place in range(len(self.columns))]


@dataclasses.dataclass(frozen=True)
class WholeTable:
    """A table in the width of its console: the first of `layouts` that has room, else the last.

    plain  without lines, for a table that is drawn again and again
    """

    layouts: Sequence[Layout]
    title: str = ""
    plain: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        width = options.max_width
        for layout in self.layouts:
            widths = layout.widths(width, self._frame(layout))
            if widths is not None:
                break
        else:
            layout = self.layouts[-1]
            widths = layout.least()
            options = options.update_width(sum(widths) + self._frame(layout))
        yield from console.render(self._table(layout, widths), options)
        if layout.more:
            yield from console.render(fit_words(layout.more, width), options)

    def _frame(self, layout: Layout) -> int:
        count = len(layout.columns)
        return 2 * (count - 1) if self.plain else 3 * count + 1

    def _table(self, layout: Layout, widths: Sequence[int]) -> Table:
        table = Table(
            title=self.title or None,
            title_justify="left",
            box=None if self.plain else box.HEAVY_HEAD,
            pad_edge=not self.plain,
        )
        for column, width in zip(layout.columns, widths, strict=True):
            table.add_column(
                column.head,
                justify="right" if column.kind == "number" else "left",
                width=width,
            )
        for row in layout.rows:
            cells = zip(layout.columns, row, widths, strict=True)
            table.add_row(*(FITTED[column.kind](text, width) for column, text, width in cells))
        return table


def shortened(name: str, width: int) -> str:
    """The name in at most `width` cells: names of one run often differ only at their ends.

    >>> shortened("completion_of_functions_3", 12)
    'comple…ons_3'
    """
    if cell_len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


FITTED: dict[Kind, Callable[[str, int], str]] = {
    "name": shortened,
    "number": lambda number, width: number,
    "words": lambda words, width: fit_words(words, width, indent=0),
}


def _longest(texts: Sequence[str]) -> int:
    return max(map(cell_len, texts), default=0)
