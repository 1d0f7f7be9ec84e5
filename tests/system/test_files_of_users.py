"""Files that people save in other encodings: the line and what to do, or the text where there is only one reading."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from normbench.cli import app
from normbench.corruptions import registry as corruptions
from normbench.data.sources import registry as sources
from normbench.data.sources.base import Request
from normbench.data.sources.imagefolder import ImageFolder
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.results.tables.facts import about
from normbench.suite import resolve
from normbench.suite.file import ParamsFile
from normbench.system import files
from normbench.system.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
GOOD = (ROOT / "params.yaml").read_text(encoding="utf-8")
NOTED = GOOD.replace("    image_size: 12", "    image_size: 12\n    note: größer")
LINE = next(n for n, line in enumerate(NOTED.splitlines(), 1) if "größer" in line)

REFUSED = {
    "Latin-1": (NOTED.encode("latin-1"), rf":{LINE}: byte 0xF6 \('ö' in Latin-1\) is not UTF-8: save the file as UTF-8$"),
    "Latin-1 with a mark": (codecs.BOM_UTF8 + NOTED.encode("latin-1"), rf":{LINE}: byte 0xF6 "),
    "UTF-16": (NOTED.encode("utf-16"), r":1: its text is UTF-16, UTF-8 is needed: save the file as UTF-8$"),
    "UTF-16, big end first": (codecs.BOM_UTF16_BE + NOTED.encode("utf-16-be"), r":1: its text is UTF-16"),
    "UTF-16 without a mark": (NOTED.encode("utf-16-le"), r":1: its text looks like UTF-16 or UTF-32: save the file"),
    "UTF-32": (NOTED.encode("utf-32"), r":1: its text (is|looks like) UTF-16"),
    "NUL": (NOTED.replace("größer", "a\0b").encode(), rf":{LINE}: has a NUL byte: save the file as UTF-8 text$"),
    "cut within a character": ("a: ö".encode()[:-1], r":1: byte 0xC3 "),
    "a surrogate": (b"a: 1\nb: \xed\xa0\x80", r":2: byte 0xED "),
    "bytes": (bytes(range(128, 256)), r":1: byte 0x80 is not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_the_line_of_bytes_that_are_no_text(case: str, tmp_path: Path) -> None:
    content, expected = REFUSED[case]
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    for read in (files.read_text, files.read_json, ParamsFile):
        with pytest.raises(UserError, match=re.escape(str(path)) + expected) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_mark_and_the_ends_of_lines_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    path = tmp_path / "params.yaml"
    path.write_bytes(NOTED.encode())
    expected = resolve.resolve(path)
    for content in (
        NOTED.encode("utf-8-sig"),
        NOTED.replace("\n", "\r\n").encode(),
        NOTED.replace("\n", "\r").encode(),
    ):
        path.write_bytes(content)
        assert resolve.resolve(path) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"a":\n 1,}', r":2: not JSON: "),
        ("", r":1: not JSON: "),
        ("[" * 100_000, r": not JSON that can be read: "),
        ("1" * 5000, r": not JSON that can be read: "),
    ],
)
def test_the_line_of_what_is_no_json(content: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=f"a\\.json{expected}"):
        files.read_json(tmp_path / "a.json")


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{tmp_path}: Is a directory$"):
        ParamsFile(tmp_path)


def test_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite that is no text is named in the list, does not become params.yaml, and edits are kept byte for byte."""
    monkeypatch.chdir(tmp_path)
    Path("suites").mkdir()
    Path("suites/bad.yaml").write_bytes("# für\n".encode("latin-1"))
    Path("suites/good.yaml").write_text("# a good one\n")
    edits = "# größer\n".encode("latin-1")
    Path("params.yaml").write_bytes(edits)
    listed = CliRunner().invoke(app, ["suite"]).output
    assert "  bad: cannot be read: suites/bad.yaml:1: byte 0xFC" in listed
    assert "  good: a good one" in listed
    failed = CliRunner().invoke(app, ["suite", "bad"])
    assert isinstance(failed.exception, UserError)
    assert Path("params.yaml").read_bytes() == edits
    assert CliRunner().invoke(app, ["suite", "good"]).exit_code == 0
    assert Path("suites/edited-1.yaml").read_bytes() == edits
    assert Path("params.yaml").read_bytes() == Path("suites/good.yaml").read_bytes()


def test_labels_of_an_image_folder(tmp_path: Path) -> None:
    for name in ("train/a", "val/images"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "train/a/1.png").write_bytes(b"")
    (tmp_path / "val/val_annotations.txt").write_bytes("1.png\ta\nö.png\ta\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"val_annotations\.txt:2: byte 0xF6"):
        ImageFolder(str(tmp_path)).write(Request("mine", 8), tmp_path)


REFERENCES = {
    "method": methods.method_class,
    "model": models.get,
    "source": sources.source_class,
    "corruption": corruptions.get,
}
CODE = {
    "latin-1": ("x = 1\ny = 'größer'\n".encode("latin-1"), r":2: byte 0xF6 \('ö' in Latin-1\) is not UTF-8: save "),
    "utf-16": ("x = 1\n".encode("utf-16"), r":1: its text is UTF-16"),
    "NUL": (b"x = 1\ny = '\0'\n", r":2: has a NUL byte"),
    "not Python": (b"x = 1\ndef f(:\n", r":2 cannot be imported: SyntaxError: "),
}


@pytest.mark.parametrize("case", CODE)
@pytest.mark.parametrize("noun", REFERENCES)
def test_own_code(case: str, noun: str, tmp_path: Path) -> None:
    content, expected = CODE[case]
    path = tmp_path / "own.py"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path)) + expected) as caught:
        REFERENCES[noun](f"{path}:name")
    assert "\n" not in str(caught.value)


METHOD = '''"""Größe, as in the paper."""
from dataclasses import dataclass
from normbench.methods.base import Method

@dataclass(frozen=True)
class Own(Method):
    pass
'''


@pytest.mark.parametrize("content", [METHOD.encode("utf-8-sig"), b"# coding: latin-1\n" + METHOD.encode("latin-1")])
def test_code_in_an_encoding_that_it_declares(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_bytes(content)
    assert methods.method_class(f"{path}:Own").__name__ == "Own"
    assert about(f"{path}:Own") == "Größe, as in the paper."


TWO = {
    "method": METHOD + "\nclass Other(Own):\n    pass\n",
    "model": "from normbench.models.base import register_classifier\n"
    + "".join(f"@register_classifier()\ndef {name}(method, channels, classes): ...\n" for name in ("one", "two")),
    "source": "from dataclasses import dataclass\nfrom normbench.data.sources.base import Source, source\n"
    + "".join(f"@source('{n}')\n@dataclass(frozen=True)\nclass C{n}(Source):\n    pass\n" for n in ("one", "two")),
    "corruption": "from normbench.corruptions.registry import corruption\n"
    + "".join(f"@corruption(constants=(1, 2, 3, 4, 5))\ndef {n}(images, c): ...\n" for n in ("one", "two")),
}


@pytest.mark.parametrize("noun", REFERENCES)
def test_a_file_without_a_name_in_it(noun: str, tmp_path: Path) -> None:
    """The answer is what to write, and not the nearest name of the package."""
    path, find = tmp_path / "mine.py", REFERENCES[noun]
    path.write_text(TWO[noun])
    names = "Other, Own" if noun == "method" else "one, two"
    called = "class" if noun == "method" else noun
    for reference in (str(path), f"{path}:"):
        with pytest.raises(UserError) as caught:
            find(reference)
        assert str(caught.value) == (
            f"it does not say which {called} of the file is meant: write {path}:NAME, where NAME is one of {names}"
        )
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match=rf"empty\.py has no {called}$"):
        find(f"{tmp_path}/empty.py")
    with pytest.raises(UserError, match=r"^no such file .*/mine; did you mean '.*/mine\.py'\?$"):
        find(f"{tmp_path}/mine")
    with pytest.raises(UserError, match=r"^no module named no\.such can be imported$"):
        find("no.such")
    with pytest.raises(UserError, match=r"^no file or module stands before the ':'$"):
        find(":Own")


def test_a_file_with_one_name_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD)
    with pytest.raises(UserError, match=rf"is meant: write {tmp_path}/mine\.py:Own$"):
        methods.method_class(f"{tmp_path}/mine.py")
