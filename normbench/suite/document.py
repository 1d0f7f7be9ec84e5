"""A YAML file of a user: its value, and for each place in it the line and the text that stand there."""

from __future__ import annotations

import math
import re
import unicodedata
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from normbench.system import files
from normbench.system.errors import UserError

Keys = tuple[str | int, ...]

MOST_VALUES = 50_000  # in a file, with each alias counted as often as it is used
DEEPEST = 50  # lists and mappings within one another
TAGS = "tag:yaml.org,2002:"
KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "timestamp": "a date", "null": "null"}


class Document:
    """A YAML file of which the top level is a mapping. `value` is its value: mappings, lists and scalars.

    Keys of the top level that begin with `x-` are left out: they hold anchors. A mapping has text as keys, merge keys
    (`<<`) are followed, and numbers are finite. Raises UserError, with one line for each mistake, if the file is not
    such YAML.
    path: the file, as messages name it. text: its content, where it has been read already.
    """

    def __init__(self, path: Path, text: str | None = None):
        self.path = path
        self._text = files.read_text(path) if text is None else text
        self._nodes: dict[Keys, tuple[int, Node]] = {}  # by place, the line of the key and the value
        self._problems: dict[tuple[int, str], str] = {}  # by node and message: one line, however often it is used
        self._yaml = YAML(typ="safe", pure=True)
        self._values = 0
        root = self._composed()
        if not isinstance(root, MappingNode):
            raise UserError(f"{path}: holds no keys")
        root.value = [pair for pair in root.value if not str(pair[0].value).startswith("x-")]
        self.value: dict[str, Any] = self._value(root, (), ())
        if self._problems:
            raise UserError(*self._problems.values())

    def problem(self, keys: Keys, message: str) -> str:
        """Returns the error line `params.yaml:12: a.b = value: message`.

        It has no value where the key is missing or holds a mapping, and then the line of the last key that exists.
        """
        there = next((keys[:n] for n in range(len(keys), 0, -1) if keys[:n] in self._nodes), None)
        line = self._nodes[there][0] if there else None
        shown = f" = {self.written(keys)}" if there == keys and self.written(keys) else ""
        return f"{self._place(line)}: {dotted(keys)}{shown}: {message}"

    def written(self, keys: Keys) -> str:
        """Returns the value at a place as the file has it, on one short line; strings are in quotes.

        Empty for a mapping with keys.
        """
        node = self._nodes[keys][1]
        if isinstance(node, ScalarNode) and _kind(node) == "str":
            return short(repr(node.value))
        if isinstance(node, MappingNode) and node.value:
            return ""
        raw = self._text[node.start_mark.index : min(node.end_mark.index, node.start_mark.index + 1000)]
        return short(" ".join(raw.split())) or "null"  # nothing after the colon

    def _place(self, line: int | None) -> str:
        return f"{self.path}:{line}" if line else str(self.path)

    def _composed(self) -> Node | None:
        try:
            return self._yaml.compose(self._text)
        except YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            if mark is not None:
                said = (getattr(error, "context", None), getattr(error, "problem", None))
                line, problem = mark.line + 1, ", ".join(filter(None, said)).replace(", but", " but") or str(error)
                if "'\\t'" in problem:
                    problem = "a tab; YAML is indented by spaces"
            else:
                position = getattr(error, "position", 0)
                line, problem = self._text.count("\n", 0, position) + 1, str(getattr(error, "reason", None) or error)
            raise UserError(f"{self._place(line)}: not YAML: {' '.join(problem.split())}") from None
        except RecursionError:
            raise UserError(f"{self.path}: more than {DEEPEST} lists and mappings within one another") from None

    def _wrong(self, node: Node, keys: Keys, message: str) -> None:
        """Notes a mistake at a key, or at a node that has no value to show."""
        line = node.start_mark.line + 1
        self._problems.setdefault((id(node), message), f"{self._place(line)}: {dotted(keys)}: {message}")

    def _wrong_value(self, node: Node, keys: Keys, message: str) -> None:
        """Notes a mistake in the scalar at a place."""
        self._problems.setdefault((id(node), message), self.problem(keys, message))

    def _count(self, node: Node) -> None:
        """Counts the values, so that aliases of aliases of aliases do not take for ever."""
        self._values += 1
        if self._values > MOST_VALUES:
            line = node.start_mark.line + 1
            raise UserError(f"{self._place(line)}: more than {MOST_VALUES:,} values, with those that aliases repeat")

    def _value(self, node: Node, keys: Keys, above: tuple[int, ...]) -> Any:
        """The value of a node at a place. above: the nodes around it, by which an alias within itself is found."""
        if id(node) in above:
            self._wrong(node, keys, "holds an alias of itself")
            return None
        if len(above) > DEEPEST:
            raise UserError(
                f"{self._place(node.start_mark.line + 1)}: more than {DEEPEST} lists and mappings within one another"
            )
        self._count(node)
        self._nodes.setdefault(keys, (node.start_mark.line + 1, node))
        kind = _kind(node)
        if isinstance(node, MappingNode) and kind == "map":
            found: dict[str, Any] = {}
            for name, (line, value) in self._entries(node, keys, above).items():
                self._nodes[*keys, name] = (line, value)
                found[name] = self._value(value, (*keys, name), (*above, id(node)))
            return found
        if isinstance(node, SequenceNode) and kind == "seq":
            return [self._value(each, (*keys, n), (*above, id(node))) for n, each in enumerate(node.value)]
        if isinstance(node, ScalarNode) and kind in {"str", *KINDS}:
            return self._scalar(node, kind, keys)
        self._wrong(node, keys, f"the tag {_tag(node)} is not used here: leave it out")
        return None

    def _entries(self, node: MappingNode, keys: Keys, above: tuple[int, ...]) -> dict[str, tuple[int, Node]]:
        """The line and the value of each key of a mapping: its own keys, then those of its merge keys."""
        own: dict[str, tuple[int, Node]] = {}
        merged: dict[str, tuple[int, Node]] = {}
        for key, value in node.value:
            self._count(key)
            line = key.start_mark.line + 1
            if _tag(key) == "!!merge":
                for part in value.value if isinstance(value, SequenceNode) else [value]:
                    if not isinstance(part, MappingNode) or len(above) > DEEPEST or id(part) in (*above, id(node)):
                        self._wrong(key, (*keys, "<<"), "a merge key takes an alias of a mapping, or a list of them")
                        continue
                    merged = self._entries(part, keys, (*above, id(node))) | merged
                continue
            if not isinstance(key, ScalarNode):
                self._wrong(key, keys, "a list or a mapping stands where a name is needed")
                continue
            written = key.value
            kind = KINDS.get(_kind(key))
            if kind is not None:
                written = written or "null"
                self._wrong(key, keys, f"the name {written} is read as {kind}: write it in quotes, '{written}'")
            elif _kind(key) != "str":
                self._wrong(key, keys, f"the tag {_tag(key)} is not used here: leave it out")
            elif odd := _control(written):
                self._wrong(key, keys, f"a name with the control character {odd}")
            elif written in own:
                self._wrong(key, (*keys, written), f"stands here twice, first in line {own[written][0]}")
            else:
                own[written] = line, value
        return own | {name: entry for name, entry in merged.items() if name not in own}

    def _scalar(self, node: ScalarNode, kind: str, keys: Keys) -> Any:
        """The value of a scalar; a date stays a date, which no key takes."""
        if kind == "str":
            if odd := _control(node.value):
                self._wrong_value(node, keys, f"text with the control character {odd}")
            return node.value
        if kind == "int" and re.fullmatch(r"[-+]?0[0-9_]+", node.value):
            decimal = re.sub(r"\b0+(?=\d)", "", node.value.replace("_", ""))
            self._wrong_value(node, keys, f"a number with a leading 0, which some read as octal: write {decimal}")
            return None
        try:
            value = self._yaml.constructor.construct_object(node, deep=True)
        except (YAMLError, ValueError, TypeError, KeyError, OverflowError):
            self._wrong_value(node, keys, f"cannot be read as {KINDS[kind]}: if it is text, write it in quotes")
            return None
        if isinstance(value, int) and value.bit_length() > 1000:  # of which no float can be made
            self._wrong_value(node, keys, "is too large a number")
        if isinstance(value, float) and not math.isfinite(value):
            self._wrong_value(node, keys, "must be a finite number")
        return value


def dotted(keys: Keys) -> str:
    """Returns `a.b.0` for a place in a file."""
    return short(".".join(str(key) for key in keys), 200)


def short(text: str, most: int = 60) -> str:
    """Returns a text, cut to at most this many characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def _tag(node: Node) -> str:
    """The tag of a node as it can be written: `!!int`, or `!mine`."""
    return short(str(node.tag).replace(TAGS, "!!"))


def _kind(node: Node) -> str:
    """The tag of a node without its `!!`."""
    kind = _tag(node).removeprefix("!!")
    return "str" if isinstance(node, ScalarNode) and kind in ("merge", "value") else kind  # `<<` or `=` as a value


def _control(text: str) -> str | None:
    """The first character of a text that no name, path or note has, escaped; None if there is none."""
    odd = next((each for each in text if each not in "\n\t" and unicodedata.category(each) in ("Cc", "Cs")), None)
    return None if odd is None else repr(odd).strip("'")
