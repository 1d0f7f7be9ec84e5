"""Suites that share definitions: what a suite names without defining it is copied from suites/library.yaml.

The result is a params.yaml that needs no other file: it can be edited, and it holds all that shapes a run.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from normbench.suite.document import Document
from normbench.system import files

LIBRARY = "library.yaml"  # in the folder of the suites
WIDTH = 4096  # characters of a line: a definition stays on its own
RECIPES = "x-recipes"  # the section of recipes that several tasks refer to
ORDER = ("datasets", "tasks", "gan_tasks", "variants")
# The section that defines what a list of the suite names.
SECTIONS = {
    "datasets": "datasets",
    "tasks": "tasks",
    "variants": "variants",
    "gan_tasks": "gan_tasks",
    "gan_variants": "variants",
}


def composed(path: Path) -> str:
    """Returns the text of a suite with the definitions that it takes from the library beside it.

    A suite that defines all that it names is returned as it is. What the library does not have either is left out:
    the check of params.yaml names it. Raises UserError if one of the two files is not such YAML.
    """
    text = files.read_text(path)
    library = path.parent / LIBRARY
    if not library.is_file():
        return text
    shared = Document(library).value
    own = Document(path, text).value
    wanted = [each for each in _named(own) if not _defines(own, each) and _defines(shared, each)]
    tasks = [shared[section][name] for section, name in wanted if section.endswith("tasks")]
    datasets = [("datasets", task["dataset"]) for task in tasks]
    wanted += [each for each in datasets if not _defines(own, each) and _defines(shared, each)]
    if not wanted:
        return text
    return _with_definitions(text, files.read_text(library), list(dict.fromkeys(wanted)))


def _named(suite: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The section and the name of everything that a suite names in its lists."""
    lists = suite.get("suite")
    if not isinstance(lists, dict):
        return
    for key, section in SECTIONS.items():
        names = lists.get(key)
        for name in names if isinstance(names, list) else []:
            if isinstance(name, str):
                yield section, name


def _defines(values: dict[str, Any], place: tuple[str, str]) -> bool:
    section, name = place
    return isinstance(values.get(section), dict) and name in values[section]


def _with_definitions(text: str, library: str, wanted: list[tuple[str, str]]) -> str:
    """The text of a suite with definitions of the library in their sections, and the recipes that they share."""
    yaml = YAML()  # keeps comments, quotes and the style of each mapping
    yaml.preserve_quotes = True
    yaml.width = WIDTH
    yaml.indent(mapping=2, sequence=4, offset=2)
    suite, shared = yaml.load(text), yaml.load(library)
    taken = [shared[section][name] for section, name in wanted]
    recipes = {
        name: recipe
        for name, recipe in shared.get(RECIPES, {}).items()
        if any(recipe is each.get("recipe") for each in taken)
    }
    found = {section: {name: shared[section][name] for place, name in wanted if place == section} for section in ORDER}
    for section, entries in {"datasets": found["datasets"], RECIPES: recipes, **found}.items():
        if entries and section not in suite:
            suite[section] = CommentedMap()
            suite.yaml_set_comment_before_after_key(section, before="\n")
        for name, entry in entries.items():
            suite[section][name] = entry
    written = io.StringIO()
    yaml.dump(suite, written)
    return written.getvalue()
