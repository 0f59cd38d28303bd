r"""Patterns over module names, as in an adapter's `rank_pattern`: a small part of what PEFT reads.

PEFT takes them for regular expressions, of which some take exponential time, and an adapter may
come from anywhere. These take linear time, and cover what names of modules need:

    q_proj    layers.3.self_attn.q_proj    the name or its end; `.` is any character, `\.` a dot
    layers\.\d+\.mlp\.up_proj              \d, \w and choices such as [0-3], repeated by * or +
    q_proj|v_proj    ^model.layers.0.mlp   alternatives and anchors, but no groups
"""

import re
import string
from typing import NamedTuple

# Ours, over foreign text; it has nothing to repeat twice, so it is linear.
ATOM = re.compile(r"(\\[.dw_-]|\.|\[[\w-]+\]|[\w/-])([*+]?)", re.ASCII)
CHOICE = re.compile(r"(\w)-(\w)|(.)", re.ASCII)
CLASSES = {r"\d": string.digits, r"\w": string.ascii_letters + string.digits + "_"}
MAX_CHARACTERS = 1000  # a module's name has about a hundred


class Atom(NamedTuple):
    """One character of a name (None: any), or if `repeated` any number of them, none included."""

    characters: frozenset[str] | None
    repeated: bool

    def accepts(self, character: str) -> bool:
        return self.characters is None or character in self.characters


class Alternative(NamedTuple):
    """The atoms of one alternative; `anchored` if it must match from the name's beginning."""

    atoms: tuple[Atom, ...]
    anchored: bool

    def matches(self, name: str) -> bool:
        """Whether it is the name, or the name's end after a dot."""
        if not any(atom.repeated for atom in self.atoms):
            start = len(name) - len(self.atoms)
            begins = start == 0 or (start > 0 and not self.anchored and name[start - 1] == ".")
            pairs = zip(self.atoms, name[max(start, 0) :], strict=False)
            return begins and all(atom.accepts(character) for atom, character in pairs)
        alive = self._skipped({0})
        for character in name:
            after = {0} if character == "." and not self.anchored else set()
            for place in alive - {len(self.atoms)}:
                if self.atoms[place].accepts(character):
                    after.add(place if self.atoms[place].repeated else place + 1)
            alive = self._skipped(after)
        return len(self.atoms) in alive

    def _skipped(self, places: set[int]) -> set[int]:
        """The places, and those behind atoms that may be absent."""
        found = set()
        for place in places:
            found.add(place)
            while place < len(self.atoms) and self.atoms[place].repeated:
                place += 1
                found.add(place)
        return found


class ModulePattern(NamedTuple):
    """A pattern over names, which matches where one of its alternatives does."""

    alternatives: tuple[Alternative, ...]

    def matches(self, name: str) -> bool:
        return any(alternative.matches(name) for alternative in self.alternatives)


def parse_pattern(text: str) -> ModulePattern | None:
    """The pattern that a key stands for; None where it uses what is not understood."""
    if len(text) > MAX_CHARACTERS:
        return None
    alternatives = [_alternative(part) for part in text.split("|")]
    known = tuple(alternative for alternative in alternatives if alternative is not None)
    return ModulePattern(known) if len(known) == len(alternatives) else None


def _alternative(text: str) -> Alternative | None:
    bare = text.removeprefix("^").removesuffix("$")
    atoms: list[Atom] = []
    at = 0
    while at < len(bare):
        match = ATOM.match(bare, at)
        if match is None:
            return None
        characters = _characters(match[1])
        # x+ is x x*.
        atoms += [Atom(characters, False)] * (match[2] != "*")
        atoms += [Atom(characters, True)] * (match[2] != "")
        at = match.end()
    return Alternative(tuple(atoms), text.startswith("^"))


def _characters(atom: str) -> frozenset[str] | None:
    if atom == ".":
        return None
    if atom in CLASSES:
        return frozenset(CLASSES[atom])
    if not atom.startswith("["):
        return frozenset(atom[-1])
    found: set[str] = set()
    for first, last, single in CHOICE.findall(atom[1:-1]):
        found |= {single} if single else set(map(chr, range(ord(first), ord(last) + 1)))
    return frozenset(found)
