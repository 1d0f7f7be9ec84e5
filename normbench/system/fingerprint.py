"""What code a result depends on, definition by definition, and one hash over what that code means.

The hash moves when something moves that can change a number, and with nothing else: see `meaning` for what is left
out, and `source_tree` for how names are followed. It knows no files and no modules, so that definitions can be moved.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from normbench.system.errors import UserError, hint
from normbench.system.meaning import Dump, Meaning
from normbench.system.source_tree import PACKAGE_ROOT, Place, Tree, package_files

__all__ = ["EFFECTS", "PACKAGE_ROOT", "Closure", "Place", "Root", "closure", "code", "explain"]

EFFECTS = "(effects)"  # in the place of a name: what the import of a module does beside defining names


@dataclass(frozen=True)
class Root:
    """A definition to start from: the name of a function, class or constant in a file; None for the whole module."""

    file: Path
    name: str | None = None


@dataclass(frozen=True)
class Node:
    """A definition by itself: the hash of its own meaning, and what it refers to, in the order of that."""

    own: str
    places: list[Place]


@dataclass(frozen=True)
class Closure:
    """Roots and all that they refer to, directly or not. `EFFECTS` among the names stands for a module's effects."""

    nodes: dict[Place, Node]

    @property
    def definitions(self) -> list[tuple[Path, str]]:
        return sorted((place.file, place.name) for place in self.nodes if place.name is not None)

    @property
    def files(self) -> list[Path]:
        """Those that have a definition in it."""
        return sorted({file for file, _ in self.definitions})

    @functools.cached_property
    def digest(self) -> str:
        """Hexadecimal sha256 of all the definitions and of how they refer to each other."""
        digests = {place: node.own for place, node in self.nodes.items()}
        told_apart = 0
        # Each round takes in what lies one reference further away, until no two more definitions are told apart.
        while len(set(digests.values())) > told_apart:
            told_apart = len(set(digests.values()))
            digests = {
                place: _hash((node.own, *(digests[target] for target in node.places)))
                for place, node in self.nodes.items()
            }
        return _hash(tuple(sorted({(place.name, digests[place]) for place in self.nodes if place.name is not None})))

    @functools.cached_property
    def labels(self) -> dict[str, str]:
        """The hash of each definition by itself, by name. Those of one name in several files have one hash together."""
        own: dict[str, set[str]] = {}
        for place, node in self.nodes.items():
            if place.name is not None:
                own.setdefault(place.name, set()).add(node.own)
        return {name: _hash(tuple(sorted(own[name]))) for name in sorted(own)}


def closure(roots: Iterable[Root]) -> Closure:
    """The definitions that roots reach, as the source files are now; nothing is imported.

    Raises UserError for a file that is no Python and for a root that is not there.
    """
    tree = Tree()
    nodes: dict[Place, Node] = {}
    waiting = [_place(tree, root) for root in roots]
    while waiting:
        place = waiting.pop()
        if place not in nodes:
            nodes[place] = _node(tree, place)
            waiting += nodes[place].places
            waiting += [Place(file, EFFECTS) for file in (place.file, *package_files(place.file))]
    without = _hash(())
    return Closure({p: node for p, node in nodes.items() if p.name != EFFECTS or node.own != without})


def code(paths: Iterable[str | Path]) -> str:
    """The digest of the closure of whole files."""
    return closure(Root(Path(path)) for path in paths).digest


def explain(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Which definitions differ between the `labels` of two closures: `fit`, `helper (new)`, `other (gone)`."""
    changed = sorted(name for name in old.keys() & new.keys() if old[name] != new[name])
    added, removed = sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys())
    return [*changed, *(f"{name} (new)" for name in added), *(f"{name} (gone)" for name in removed)]


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
    dump = meaning.block(module.effects if place.name == EFFECTS else module.names[place.name])
    return Node(_hash(dump), meaning.places)


def _hash(dump: Dump) -> str:
    return hashlib.sha256(ascii(dump).encode()).hexdigest()
