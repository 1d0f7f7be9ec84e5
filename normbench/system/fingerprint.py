"""The code that a result depends on, found definition by definition, and one hash of what that code means.

The hash changes when a change of the code can change a number, and only then. `meaning` decides which parts of a
definition are ignored, and `source_tree` follows names to their definitions. The hash does not include the names of
files and modules, so that definitions can be moved.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from normbench.system.errors import UserError, hint
from normbench.system.meaning import Dump, Meaning
from normbench.system.source_tree import PACKAGE_ROOT, Place, Tree, package_files

__all__ = ["EFFECTS", "PACKAGE_ROOT", "Closure", "Place", "Root", "closure", "one_reading"]

EFFECTS = "(effects)"  # used as a name: what importing a module does besides defining names


@dataclass(frozen=True)
class Root:
    """A definition to start from: a function, class or constant of a file, or the whole module if the name is None."""

    file: Path
    name: str | None = None


@dataclass(frozen=True)
class Node:
    """One definition: the hash of its own meaning, and the definitions it refers to, in order of first reference."""

    own: str
    places: list[Place]


@dataclass(frozen=True)
class Closure:
    """The roots and everything that they refer to, directly or indirectly.

    A node whose name is `EFFECTS` stands for what the import of its module does besides defining names.
    """

    nodes: dict[Place, Node]

    @property
    def definitions(self) -> list[tuple[Path, str]]:
        """The file and name of every definition, sorted."""
        return sorted((place.file, place.name) for place in self.nodes if place.name is not None)

    @property
    def files(self) -> list[Path]:
        """The files that hold these definitions, sorted."""
        return sorted({file for file, _ in self.definitions})

    @functools.cached_property
    def digest(self) -> str:
        """Hexadecimal sha256 of the meaning of all definitions and of the references between them."""
        digests = {place: node.own for place, node in self.nodes.items()}
        told_apart = 0
        # Each round includes references one step further away, until a round distinguishes no further definitions.
        while len(set(digests.values())) > told_apart:
            told_apart = len(set(digests.values()))
            digests = {
                place: _hash((node.own, *(digests[target] for target in node.places)))
                for place, node in self.nodes.items()
            }
        return _hash(tuple(sorted({(place.name, digests[place]) for place in self.nodes if place.name is not None})))


@dataclass
class Reading:
    """The source files at one time, and the nodes that were made of them."""

    tree: Tree = field(default_factory=Tree)
    nodes: dict[Place, Node] = field(default_factory=dict)

    def node(self, place: Place) -> Node:
        """Returns the node of a definition, which is made once."""
        if place not in self.nodes:
            self.nodes[place] = _node(self.tree, place)
        return self.nodes[place]


_reading: Reading | None = None


@contextmanager
def one_reading() -> Iterator[None]:
    """A context in which all closures show the source files at one time: as each was when it was first needed.

    Closures share most of their definitions, so that many of them take little more time than one.
    """
    global _reading
    before, _reading = _reading, _reading or Reading()
    try:
        yield
    finally:
        _reading = before


def closure(roots: Iterable[Root]) -> Closure:
    """Returns the closure of the roots, read from the source files as they are now; nothing is imported.

    Raises UserError if a file is not valid Python or does not define its root.
    """
    reading = _reading or Reading()
    tree = reading.tree
    nodes: dict[Place, Node] = {}
    waiting = [_place(tree, root) for root in roots]
    while waiting:
        place = waiting.pop()
        if place not in nodes:
            nodes[place] = reading.node(place)
            waiting += nodes[place].places
            waiting += [Place(file, EFFECTS) for file in (place.file, *package_files(place.file))]
    without = _hash(())
    return Closure({p: node for p, node in nodes.items() if p.name != EFFECTS or node.own != without})


def _place(tree: Tree, root: Root) -> Place:
    file = root.file.resolve()
    if root.name is None:
        return Place(file, None)
    found = tree.find(file, root.name)
    if found is None or found.place is None:
        raise UserError(f"{root.file} defines no {root.name}; {hint(root.name, tree.module(file).names)}")
    return found.place


def _node(tree: Tree, place: Place) -> Node:
    module = tree.module(place.file)
    if place.name is None:
        return Node(_hash(("module",)), [member.place for member in tree.members(place.file) if member.place])
    meaning = Meaning(tree, module)
    if place.name == EFFECTS:
        entered = [made for made in module.decorated if meaning.is_entered_elsewhere(made)]
        dump = meaning.block([*module.effects, *entered])
    else:
        dump = meaning.block(module.names[place.name])
    return Node(_hash(dump), meaning.places)


def _hash(dump: Dump) -> str:
    return hashlib.sha256(ascii(dump).encode()).hexdigest()
