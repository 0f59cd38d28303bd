"""The README's picture of the package is the package: every room and file, in the page's order."""

import itertools
import re
from collections.abc import Iterator

import pytest
from test_architecture import PACKAGE, PAGE, ROOT


def listing(readme: str) -> Iterator[tuple[str, str]]:
    """(room, its lines) of the README's picture of the package, in order. Names stand at the start
    of an entry: two spaces deep a room, deeper a module; `name.py` elsewhere on a line counts too.
    """
    block = re.search(rf"^```\n{PACKAGE}/\n(.*?)^(?:```|\S)", readme, re.M | re.S)
    room, lines = "", ""
    for line in block[1].splitlines() if block else ():
        if re.match(r"  \S", line):
            if room:
                yield room, lines
            # Small rooms may share a line: all but the last are done at once.
            *others, room = re.findall(r"(?:^  |   )(\w+)(?:\.py|/)", line)
            yield from ((other, "") for other in others)
            lines = ""
        lines += line + "\n"
    if room:
        yield room, lines


def listing_breaches(readme: str, modules: dict[str, set[str]]) -> list[str]:
    """Where the README's picture and the package differ. `modules`: the files of every room. A room
    that names one file names them all; a room shown as a whole names none."""
    entries = list(listing(readme))
    shown = [room for room, _ in entries]
    breaches = [f"{room} is not listed" for room in sorted(modules.keys() - set(shown))]
    breaches += [f"{room} does not exist" for room in shown if room not in modules]
    breaches += [f"{room} is listed twice" for room in modules if shown.count(room) > 1]
    known = [room for room in shown if room in modules]
    for before, after in itertools.pairwise(known):
        if after in ordered_before(before):
            breaches.append(f"{after} stands above {before} on the page")
    for room, lines in entries:
        named = set(re.findall(r"(\w+)\.py", lines)) - {room}
        words = set(re.findall(r"\w+", lines))
        if room in modules and modules[room] and named:
            breaches += [f"{room}/{n}.py does not exist" for n in sorted(named - modules[room])]
            breaches += [f"{room}/{n}.py is not listed" for n in sorted(modules[room] - words)]
    return breaches


def ordered_before(room: str) -> set[str]:
    """The rooms that the page shows strictly above `room`."""
    above: set[str] = set()
    for ordered, rooms in PAGE:
        if room in rooms:
            return above | set(rooms[: rooms.index(room)] if ordered else ())
        above |= set(rooms)
    return set()


# The checker catches what it should, and nothing else -------------------------------------------

MODULES = {"types": set(), "weights": {"lora", "quantized"}}
PICTURE = """```
mft_jax/
  types.py    names
  weights/    products
    lora.py   an update   quantized.py   codes
configs/
```
"""
TYPES = "  types.py    names\n"
FILES = "    lora.py   an update   quantized.py   codes\n"


def test_a_whole_picture_passes():
    assert listing_breaches(PICTURE, MODULES) == []
    assert listing_breaches(PICTURE.replace(FILES, ""), MODULES) == []  # a room as a whole
    named_in_words = PICTURE.replace(FILES, "    lora.py   beside what quantized holds\n")
    assert listing_breaches(named_in_words, MODULES) == []


@pytest.mark.parametrize(
    ("old", "new", "breach"),
    [
        (PICTURE, "no picture", "types is not listed"),
        (TYPES, "", "types is not listed"),
        (TYPES, TYPES + TYPES, "types is listed twice"),
        (TYPES, TYPES + "  attic.py    old\n", "attic does not exist"),
        ("   quantized.py   codes", "", "weights/quantized.py is not listed"),
        ("codes", "codes   gone.py   nothing", "weights/gone.py does not exist"),
        (TYPES + "  weights/    products\n" + FILES, "  weights/    products\n" + TYPES,
         "types stands above weights on the page"),
    ],
)  # fmt: skip
def test_a_breach_is_caught(old, new, breach):
    assert old in PICTURE
    assert breach in listing_breaches(PICTURE.replace(old, new), MODULES)


def test_the_picture_is_the_package():
    rooms = [path for path in (ROOT / PACKAGE).iterdir() if not path.name.startswith("__")]
    modules = {
        path.stem: {file.stem for file in path.glob("*.py")} - {"__init__"}
        for path in rooms
        if path.suffix == ".py" or path.is_dir()
    }
    found = listing_breaches((ROOT / "README.md").read_text("utf-8"), modules)
    assert not found, "\n".join(found)
