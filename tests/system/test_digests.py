"""Digests of the package that are kept: those of `closure`, and never those of other code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from normbench.runs import code
from normbench.runs.run import Kind
from normbench.system import digests, fingerprint, source_tree
from normbench.system.digests import KEPT, digest, one_reading
from normbench.system.fingerprint import Root, closure


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder, and a process that knows nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digests, "_known", {})
    monkeypatch.setattr(digests, "_hashed", {})
    yield
    assert digests._open is None


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two files in the place of this one."""
    folder = tmp_path / "checkout/normbench"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "one.py").write_text("from normbench.two import factor\n\ndef scaled(x):\n    return factor() * x\n")
    (folder / "two.py").write_text("def factor():\n    return 2\n")
    for module in (digests, fingerprint, source_tree):
        monkeypatch.setattr(module, "PACKAGE_ROOT", folder.parent)
    Path("build").mkdir()
    return folder


def forget() -> None:
    """As in another process."""
    digests._known.clear()
    digests._hashed.clear()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Of which roots a closure was computed."""
    found: list[Any] = []

    def noted(roots: Any) -> Any:
        found.append(list(roots))
        return closure(found[-1])

    monkeypatch.setattr(digests, "closure", noted)
    return found


@pytest.mark.parametrize("kind", Kind)
def test_digests_are_those_of_the_closures(kind: Kind) -> None:
    roots = [Root(code.PACKAGE / file, name) for file, name in code.TRAINING[kind]]
    Path("build").mkdir()
    assert digest(roots) == closure(roots).digest
    assert set(json.loads(KEPT.read_text())["digests"].values()) == {closure(roots).digest}
    forget()
    assert digest(roots) == closure(roots).digest


def test_what_is_kept_is_not_computed_again(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the process, in the next one, and in any order of the roots; but what only another root has is."""
    done = counted(monkeypatch)
    one, two = Root(package / "one.py", "scaled"), Root(package / "two.py", "factor")
    first = digest([one, two])
    assert digest([two, one]) == first
    forget()
    assert digest([one, two]) == first
    assert len(done) == 1
    assert digest([two]) != first
    assert len(done) == 2
    forget()
    with one_reading():
        assert (digest([one, two]), digest([two])) == (first, closure([two]).digest)
        digest([one])
    assert len(done) == 3
    assert len(json.loads(KEPT.read_text())["digests"]) == 3


@pytest.mark.parametrize("file", ["one.py", "two.py", "three.py"])
def test_an_edit_of_any_file_is_another_state(package: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with the size and the time of before, in a new process. Undone, it is the digest of before."""
    roots = [Root(package / "one.py", "scaled")]
    first, path = digest(roots), package / file
    before = path.read_text() if path.exists() else "def other():\n    return 2\n"
    path.write_text(before.replace("2", "3") if file != "one.py" else before.replace("*", "+"))
    if file != "three.py":
        assert path.stat().st_size == len(before)
    forget()
    assert digest(roots) == closure(roots).digest
    assert (digest(roots) != first) == (file != "three.py")
    done = counted(monkeypatch)
    path.write_text(before)
    forget()
    assert digest(roots) == first
    assert len(done) == 1  # Only the last state is kept.


def test_an_edit_in_a_reading_is_not_kept(package: Path) -> None:
    roots = [Root(package / "one.py", "scaled")]
    with one_reading():
        (package / "two.py").write_text("def factor():\n    return 30\n")
        assert digest(roots) == closure(roots).digest
    assert not KEPT.exists()
    assert digests._known == {}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"state": 1}', '{"state": "STATE"}', '{"state": "STATE", "digests": 3}', "\x00\xff"]
)
def test_a_damaged_file_is_as_if_it_were_not_there(package: Path, content: str) -> None:
    roots = [Root(package / "one.py", "scaled")]
    KEPT.write_text(content.replace("STATE", digests.state()), encoding="latin-1")
    assert digest(roots) == closure(roots).digest
    assert len(json.loads(KEPT.read_text())["digests"]) == 1


def test_values_that_are_no_digests_are_not_taken(package: Path) -> None:
    roots = [Root(package / "one.py", "scaled")]
    digest(roots)
    kept = json.loads(KEPT.read_text())
    KEPT.write_text(json.dumps(kept | {"digests": dict.fromkeys(kept["digests"], "0")}))
    forget()
    assert digest(roots) == closure(roots).digest


def test_code_of_the_users_own_is_always_read(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may use other files of its folder, which are in no state."""
    done = counted(monkeypatch)
    Path("mine.py").write_text("def own():\n    return 1\n")
    roots = [Root(package / "one.py", "scaled"), Root(Path("mine.py"), "own")]
    first = digest(roots)
    Path("mine.py").write_text("def own():\n    return 22\n")
    assert digest(roots) != first
    assert len(done) == 2
    assert not KEPT.exists()


def test_nothing_is_written_without_a_folder(package: Path) -> None:
    shutil.rmtree("build")
    digest([Root(package / "one.py", "scaled")])
    assert sorted(path.name for path in Path().iterdir()) == ["checkout"]


def test_what_was_known_before_there_was_a_folder_is_kept_later(package: Path) -> None:
    roots = [Root(package / "one.py", "scaled")]
    shutil.rmtree("build")
    first = digest(roots)
    Path("build").mkdir()
    assert digest(roots) == first
    assert list(json.loads(KEPT.read_text())["digests"].values()) == [first]
