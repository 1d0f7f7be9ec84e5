"""Whatever stands at a key of params.yaml, the answer is a line with the file, the line, the key, and the value as written.

The keys are those of the schema, so that a new one is tested too.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from normbench.data.sources import registry as sources
from normbench.evaluation.registry import scores
from normbench.methods import registry as methods
from normbench.suite.document import Document
from normbench.suite.file import ParamsFile, check_options
from normbench.suite.schema import Params
from normbench.system.errors import UserError

# What the library calls things, which a user has never seen.
INSIDES = re.compile(
    r"Input should|pydantic|constrained|tagged|type=|_type|instance of|valid (integer|string|number|list|dict)"
    r"|literal\[|list\[|function-|errors\.|Traceback|NoneType|ruamel|yaml\.org|ScalarNode|dictionary",
    re.IGNORECASE,
)
WRONG: dict[Any, list[str]] = {
    int: ["many", "[]", "{}", "1.5", "true", "'5'", "-1", "1e400", ".nan", "-.inf", "010", "2024-01-01", "1" + 40 * "0", "1:30", "!!binary abc", "2024-13-45", 5000 * "9"],
    float: ["many", "[1]", "{a: 1}", "true", "'0.5'", "-1", ".nan", "-.inf", "1e400", "2024-01-01", "!mine 3", "1" + 400 * "0"],
    bool: ["on", "yes", "'true'", "1", "[]", "{}", "2024-01-01", "1e400"],
    str: ["1", "1.5", "true", "[]", "{}", "2024-01-01", ".inf", '"a\\0b"', '"\\e[2J"', '"\\uD800"', "!!python/object:os.system x"],
    list: ["1", "some", "{}", "true", "2024-01-01", "1e400"],
    dict: ["1", "some", "[1]", "true", "{1: 2}", "{yes: 1, null: 2}", "{2024-01-01: {}}", "{1.5: {}}", "{[a]: 1}", "{a: 1, a: 2}", "!x {}"],
    BaseModel: ["1", "some", "[1]", "true", "2024-01-01", "[]", "{1: 2}", "!x {}", "{<<: 3}", "{no_such_key_at_all: 1}"],
    Literal: ["nonsense", "1", "1.5", "[]", "{}", "true", "2024-01-01", ".nan", 2000 * "long"],
}  # fmt: skip
NULL = ["null", "~", ""]
LEAST: dict[str, Any] = {
    "suite": {
        "seeds": [0],
        "datasets": ["digits"],
        "tasks": [],
        "variants": [],
        "gan_tasks": [],
        "gan_variants": [],
    }
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "datasets": {"digits": {"source": "digits"}},
    "tasks": {"t": {"dataset": "digits", "model": "resnet8", "recipe": {"epochs": 1}}},
    "gan_tasks": {"g": {"dataset": "digits", "model": "sngan", "recipe": {"iterations": 1}}},
    "variants": {"v": {"method": "batch_norm"}},
}
NEEDED: dict[str, dict[str, Any]] = {"adversary": {"kind": "free"}, "label_noise": {"fraction": 0.5}}
NEEDED["a"] = {"lr": 0.1, "weight_decay": 0.0, "study": "s", "trials": 1}  # what was tuned for a task
MARK = "STANDS-HERE"


def alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) is typing.Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [each for part in get_args(annotation) for each in alternatives(part)]
    return [annotation]


def places(kind: type[BaseModel], keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Any], bool]]:
    """Every key of a model and of what is in it: its place, the types that it takes, and whether it may be missing."""
    for name, field in kind.model_fields.items():
        kinds = alternatives(field.annotation)
        yield (*keys, name), kinds, not field.is_required()
        for each in kinds:
            inner = get_args(each)[1] if get_origin(each) is dict else each
            below = (*keys, name, *(EXAMPLES.get(name, {"a": 0}) if get_origin(each) is dict else ()))
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from places(inner, below)


PLACES = [pytest.param(keys, kinds, id=".".join(keys)) for keys, kinds, _ in places(Params)]


def base(kind: Any) -> Any:
    origin = get_origin(kind) or kind
    if origin in (list, dict, Literal):
        return origin
    return BaseModel if issubclass(kind, BaseModel) else kind


def document(keys: tuple[str, ...], text: str) -> str:
    """The least params.yaml in which a text stands at a place."""
    value = json.loads(json.dumps(LEAST))
    if keys[0] in EXAMPLES:
        value[keys[0]] = json.loads(json.dumps(EXAMPLES[keys[0]]))
    at = value
    for key in keys[:-1]:
        at = at.setdefault(key, dict(NEEDED.get(key, {})))
    at[keys[-1]] = MARK
    return "\n".join(lines(value)).replace(MARK, text) + "\n"


def lines(value: dict[str, Any], depth: int = 0) -> Iterator[str]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield f"{'  ' * depth}{key}:"
            yield from lines(inner, depth + 1)
        else:
            shown = MARK if inner == MARK else json.dumps(inner)
            yield f"{'  ' * depth}{key}: {shown}"


def refused(path: Path, text: str) -> list[str]:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        ParamsFile(path)
    return str(caught.value).split("\n")


@pytest.mark.parametrize(("keys", "kinds"), PLACES)
def test_what_does_not_belong_at_a_key(keys: tuple[str, ...], kinds: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    bases = [base(kind) for kind in kinds if kind is not type(None)]
    texts = set(WRONG[bases[0]]).intersection(*(WRONG[each] for each in bases[1:]))
    assert texts
    for text in sorted(texts | (set() if type(None) in kinds else set(NULL))):
        content = document(keys, text)
        number = next(n for n, line in enumerate(content.split("\n"), 1) if line.endswith(f"{keys[-1]}: {text}"))
        said = refused(path, content)
        for line in said:
            assert line.startswith(f"{path}:{number}: {'.'.join(keys)}"), (text, line)
            assert not INSIDES.search(line.removeprefix(str(path))), (text, line)
            assert len(line) < 400, (text, line)
            assert line.isprintable(), (text, line)
        written = text or "null"
        if re.fullmatch(r"[\w.:'-]{1,20}", written) and len(said) == 1:
            shown = written.strip("'") if written.startswith("'") else written
            assert shown in said[0].partition(": ")[2], (text, said)
        if not text.startswith("{"):
            assert len(said) == 1, (text, said)


@pytest.mark.parametrize(("keys", "kinds"), [place for place in PLACES if list in map(base, place.values[1])])
def test_what_does_not_belong_in_a_list(keys: tuple[str, ...], kinds: list[Any], tmp_path: Path) -> None:
    (kind,) = [each for each in kinds if get_origin(each) is list]
    wanted = base(alternatives(get_args(kind)[0])[0])
    for text in [*WRONG[wanted], *NULL[:2], "[[1]]"]:
        for line in refused(tmp_path / "params.yaml", document(keys, f"[{text}]")):
            assert ".".join(keys) in line, (text, line)
            assert not INSIDES.search(line.removeprefix(str(tmp_path))), (text, line)


OPTIONS = [
    *(pytest.param(methods.method_class(name), id=name) for name in methods.names()),
    *(pytest.param(sources.source_class(name), id=name) for name in sources.names()),
]


@pytest.mark.parametrize("kind", OPTIONS)
def test_what_does_not_belong_at_an_option(kind: type) -> None:
    """Options of methods and sources come from dataclasses."""
    needed: dict[str, Any] = {
        field.name: ["a", "b"] if "list[" in str(field.type) else "a"
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    for field in dataclasses.fields(kind):
        for value in ([], {}, {"a": [1]}, [None], object, -(10**400)):
            found = dict(check_options(kind, needed | {field.name: value}))
            assert list(found) == [field.name], (field.name, value, found)
            assert not INSIDES.search(found[field.name]), (field.name, value, found)


def test_every_score_is_walked() -> None:
    """The walk over the schema reaches the settings of scores, which are put together when they are imported."""
    walked = {place.id for place in PLACES}
    for score in scores():
        assert {f"evaluation.{score.name}.{key}" for key in score.settings.model_fields} <= walked


YAML = {
    "tab": ("a:\n\tb: 1\n", r":2: not YAML: a tab; YAML is indented by spaces$"),
    "unclosed": ("a: [1, 2\nb: 3\n", r":2: not YAML: "),
    "two documents": ("a: 1\n---\nb: 1\n", r":2: not YAML: .*single document"),
    "no such anchor": ("a: *b\n", r":1: not YAML: .*undefined alias"),
    "control character": ("a: 1\nb: \x07\n", r":2: not YAML: "),
    "empty": ("", r": holds no keys$"),
    "comment": ("# nothing\n", r": holds no keys$"),
    "list": ("- a\n", r": holds no keys$"),
    "text": ("just text\n", r": holds no keys$"),
    "twice": ("a:\n  b: 1\n  c: 2\n  b: 3\n", r":4: a\.b: stands here twice, first in line 2$"),
    "tag": ("a: !mine 3\n", r":1: a: the tag !mine is not used here: leave it out$"),
    "object": ("a: !!python/object/apply:os.system [ls]\n", r":1: a: the tag !!python/object/apply:os\.system is not "),
    "whole number as a name": ("a:\n  1: b\n", r":2: a: the name 1 is read as a whole number: write it in quotes, '1'$"),
    "date as a name": ("a:\n  2024-01-01: b\n", r":2: a: the name 2024-01-01 is read as a date: write it in quotes"),
    "nothing as a name": ("a:\n  null: b\n", r":2: a: the name null is read as null: write it in quotes"),
    "no name": ("a:\n  : b\n", r":2: a: the name null is read as null"),
    "truth as a name": ("a:\n  true: b\n", r":2: a: the name true is read as true or false: write it in quotes, 'true'$"),
    "list as a name": ("a:\n  ? [b]\n  : c\n", r":2: a: a list or a mapping stands where a name is needed$"),
    "alias of itself": ("a: &a\n  b: *a\n", r":1: a\.b: holds an alias of itself$"),
    "merge of itself": ("a: &a\n  <<: *a\n", r":2: a\.<<: a merge key takes an alias of a mapping"),
    "merge of a number": ("a:\n  <<: 3\n", r":2: a\.<<: a merge key takes an alias of a mapping"),
    "deep": ("a: " + 100 * "[" + 100 * "]", r":1: more than 50 lists and mappings within one another$"),
    "very deep": ("a: " + 20000 * "[" + 20000 * "]", r": more than 50 lists and mappings within one another$"),
    "laughs": ("x: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(f"{b}: &{b} [{','.join(9 * ['*' + a])}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)), r"more than 50,000 values, with those that aliases repeat$"),
    "laughs by merging": ("x: &a {l: 1}\n" + "".join(f"{b}: &{b} {{<<: [{','.join(9 * ['*' + a])}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)), r"more than 50,000 values, with those that aliases repeat$"),
    "leading zero": ("a: 010\n", r":1: a = 010: a number with a leading 0, which some read as octal: write 10$"),
    "no such day": ("a: 2024-13-45\n", r":1: a = 2024-13-45: cannot be read as a date: if it is text, write it in quotes$"),
}  # fmt: skip


@pytest.mark.parametrize("case", YAML)
def test_what_is_no_usable_yaml(case: str, tmp_path: Path) -> None:
    text, expected = YAML[case]
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        Document(tmp_path / "params.yaml")
    assert re.search(expected, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/params.yaml:")


def test_anchors_merge_keys_and_numbers(tmp_path: Path) -> None:
    """What YAML 1.2 says of each, and what params.yaml takes from it: `on` is text, 0o10 is 8."""
    (tmp_path / "a.yaml").write_text(
        "x-anchors: {<<: 3, 1: 2, one: &one {a: 1, b: 2}, two: &two {b: 3, c: 4}}\n"
        "x-more: !mine .nan\n"
        "merged: {<<: [*one, *two], a: 9}\n"
        "again: *one\n"
        "numbers: [0o10, 0x10, 1_000, 1e3, 5e-4, on, yes, 1:30, '1', =, <<]\n"
        'text: "tab\\tand\\nline"\n'
    )
    assert Document(tmp_path / "a.yaml").value == {
        "merged": {"a": 9, "b": 2, "c": 4},
        "again": {"a": 1, "b": 2},
        "numbers": [8, 16, 1000, 1e3, 5e-4, "on", "yes", "1:30", "1", "=", "<<"],
        "text": "tab\tand\nline",
    }


def test_one_line_for_an_anchor_that_is_used_twice(tmp_path: Path) -> None:
    text = document(("tasks", "t", "recipe"), "&r {epochs: 1, lr: .inf}") + "  u: {dataset: d, model: m, recipe: *r}\n"
    assert len(refused(tmp_path / "params.yaml", text)) == 1
