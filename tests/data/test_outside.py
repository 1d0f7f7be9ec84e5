"""Digests of data outside of DVC's view: of names and contents, read again only where sizes or times have moved."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from normbench.data import outside
from normbench.data.sources.base import Source
from normbench.data.sources.registry import source_class
from normbench.suite import look, resolve
from normbench.system import files, layout
from normbench.system.errors import UserError
from tests.support import forks
from tests.support.project import ROOT, environment


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs the test in an empty folder, with data beside it."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    outside._say_once.cache_clear()
    for name, text in {"a/1.png": "one", "a/2.png": "two", "b/1.png": "three"}.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read, from now on. The cache takes files however new they are."""
    names: list[str] = []
    sha256 = files.sha256

    def noted(path: Path) -> str:
        names.append(Path(path).name)
        return sha256(path)

    monkeypatch.setattr(files, "sha256", noted)
    monkeypatch.setattr(outside, "RECENT", -3600.0)
    return names


def test_files_are_read_again_only_where_sizes_or_times_have_moved(reading: list[str]) -> None:
    first = outside.digest(["../data"])
    assert reading == ["1.png", "2.png", "1.png"]
    assert outside.digest(["../data"]) == first
    assert len(reading) == 3
    os.utime("../data/a/1.png", (1, 1))
    assert outside.digest(["../data"]) == first
    assert len(reading) == 6
    status = os.stat("../data/a/1.png")
    Path("../data/a/1.png").write_text("eno")
    os.utime("../data/a/1.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    changed = outside.digest(["../data"])
    assert changed != first
    Path("../data/a/1.png").write_text("one")
    assert outside.digest(["../data"]) == first


def test_the_digest_is_that_of_names_and_contents_alone(reading: list[str]) -> None:
    first = outside.contents(["../data"])["../data"]
    shutil.copytree("../data", "../copy")
    assert outside.contents(["../copy"])["../copy"] == first
    for name in (".DS_Store", "Thumbs.db", ".git/config", "a/.ipynb_checkpoints/1.png"):
        Path("../data", name).parent.mkdir(exist_ok=True)
        Path("../data", name).write_text("x")
    assert outside.contents(["../data"])["../data"] == first
    Path("../data/a").rename("../data/c")
    assert outside.contents(["../data"])["../data"] != first
    Path("../data/c").rename("../data/a")
    Path("../data/a/empty").write_text("")
    assert outside.contents(["../data"])["../data"] != first


def test_the_unicode_form_of_a_name_does_not_count() -> None:
    for name, form in (("one", "caf\u00e9"), ("two", "cafe\u0301")):
        Path(f"../{name}/{form}").mkdir(parents=True)
        Path(f"../{name}/{form}/1.png").write_text("x")
    found = outside.contents(["../one", "../two"])
    assert found["../one"] == found["../two"]


def test_a_file_that_has_just_changed_is_read_again(reading: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It could change once more within the resolution of its times."""
    monkeypatch.setattr(outside, "RECENT", 3600.0)
    outside.digest(["../data"])
    outside.digest(["../data"])
    assert len(reading) == 6
    assert not layout.LOOKED.exists()


def test_what_is_no_place_with_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("build/data").mkdir(parents=True)
    Path("build/data/x.npy").write_text("made here")
    Path("../none").mkdir()
    os.mkfifo("../pipe")
    places = ["", "nowhere", ".", "..", "/", "build", "build/data/x.npy", "../none", "../pipe", "~nobody_at_all/x"]
    assert outside.contents([*places, "a\0b", "x" * 5000, "white"]) == {}
    assert outside.digest(places) is None
    monkeypatch.setenv("HOME", str(tmp_path))
    assert set(outside.contents(["~/data", "../data/a/1.png"])) == {"~/data", "../data/a/1.png"}


def test_links_and_loops(reading: list[str]) -> None:
    Path("../data/loop").symlink_to("../data")
    Path("../data/ring").symlink_to("ring")
    Path("../data/gone").symlink_to("nowhere")
    first = outside.digest(["../data"])
    Path("../other").mkdir()
    Path("../other/1.png").write_text("x")
    Path("../data/more").symlink_to("../other")
    linked = outside.digest(["../data"])
    assert linked != first
    Path("../other/1.png").write_text("y")
    assert outside.digest(["../data"]) != linked


def test_data_that_are_gone_keep_what_was_noted(capsys: pytest.CaptureFixture[str]) -> None:
    found = outside.contents(["../data"])
    files.write_json(layout.OUTSIDE, found)
    Path("../data").rename("../moved")
    for _ in range(2):
        assert outside.contents(["../data", "../other"]) == found
    assert capsys.readouterr().err == "../data: not there; what was made of it is kept as it is\n"
    Path("../data").mkdir()  # as where a disk is not mounted
    assert outside.contents(["../data"]) == found


def test_a_damaged_cache_is_replaced(reading: list[str]) -> None:
    first = outside.digest(["../data"])
    place = str(Path("../data").resolve())
    for content in ("", "[1]", "{", f'{{"{place}": 3}}', f'{{"{place}": {{}}}}'):
        layout.LOOKED.write_text(content)
        layout.OUTSIDE.write_text(content)
        assert outside.digest(["../data"]) == first
    assert set(files.read_json(layout.LOOKED)) == {place}


def test_a_folder_that_cannot_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(folder: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match=r"^\.\./data: Permission denied$"):
        outside.digest(["../data"])


def test_what_sources_declare() -> None:
    @dataclass(frozen=True)
    class Own(Source):
        train: str
        count: int = 3
        parts: list[str] = field(default_factory=list)
        extra: str | None = None

    assert list(Own("a.csv", parts=["b.csv", "~/c"]).reads()) == ["a.csv", "b.csv", "~/c"]

    def reads(source: str, **options: str) -> list[str]:
        return list(source_class(source)(**options).reads())

    assert reads("imagefolder", path="pets") == ["pets"]
    assert "own.npz" in reads("npz", path="own.npz")
    assert reads("cifar10", mirror="mirror") == []


OWN = """
from dataclasses import dataclass
from pathlib import Path
from normbench.data.sources.base import Source, source

@source("mine")
@dataclass(frozen=True)
class Mine(Source):
    def reads(self):
        return {}
"""


def test_what_a_source_of_ones_own_declares() -> None:
    Path("params.yaml").write_text(
        "suite: {seeds: [0], datasets: [x], tasks: [t], variants: [v], baseline: v, gan_tasks: [], gan_variants: []}\n"
        "datasets: {x: {source: 'own.py:mine', image_size: 8}}\n"
        "tasks: {t: {dataset: x, model: resnet8, recipe: {epochs: 1}}}\nvariants: {v: {method: batch_norm}}\n"
    )

    def printed(body: str) -> str:
        Path("own.py").write_text(OWN.format(body))
        code = "from normbench.suite import look, resolve; look.look(); print(resolve.resolve().files()['datasets/x'])"
        done = forks.run("-c", code, cwd=Path.cwd(), env=ENVIRONMENT)
        return done.stdout + done.stderr

    assert "'outside': '" in printed("[Path('../data/a'), '../data/b']")
    assert set(files.read_json(layout.OUTSIDE)) == {"../data/a", "../data/b"}
    assert "params.yaml:2: datasets.x: Mine.reads fails: ZeroDivisionError: division by zero" in printed("[1 / 0]")
    assert "params.yaml:2: datasets.x: Mine.reads fails: TypeError: " in printed("[3]")
    assert files.read_json(layout.OUTSIDE) == {}


ENVIRONMENT = environment(ROOT)
PARAMS = """
suite: {seeds: [0], datasets: [photos, digits], tasks: [], variants: [], gan_tasks: [], gan_variants: []}
datasets:
  photos: {source: imagefolder, path: ../data, image_size: 8}
  other: {source: imagefolder, path: ../other, image_size: 8}
"""


def test_the_places_of_a_suite() -> None:
    path = Path("params.yaml")
    path.write_text(PARAMS)
    assert look.places(path) == ["../data"]
    path.write_text(PARAMS + "corruptions: {source: '~/{dataset}-C'}\n")
    assert look.places(path) == ["../data", "~/photos-C", "~/digits-C"]
    for broken in (
        "",
        "[1]",
        "a: [",
        "suite: 3",
        "suite: {datasets: [[1], {}]}",
        "suite: {datasets: [x]}\ndatasets: 3",
    ):
        path.write_text(broken)
        assert look.places(path) == []
    path.write_text(PARAMS.replace("path: ../data", "path: 3"))
    assert look.places(path) == []
    path.write_bytes(b"suite: \xff")
    assert look.places(path) == []
    path.unlink()
    look.look(path)
    assert files.read_json(layout.OUTSIDE) == {}


def test_a_look_does_not_import_torch() -> None:
    """DVC waits for it on every `dvc repro`, and importing torch takes seconds."""
    Path("params.yaml").write_text(PARAMS.replace("digits]", "digits, cifar10, mnist]"))
    code = (
        "import sys; from normbench.suite.look import look; look(); assert not {'torch', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(files.read_json(layout.OUTSIDE)) == {"../data"}


def test_published_corruptions_in_image_files_are_looked_at() -> None:
    Path("params.yaml").write_text(PARAMS + "corruptions: {source: '../{dataset}-C'}\n")
    image = Path("../photos-C/noise/shot_noise/3/cat/1.JPEG")
    image.parent.mkdir(parents=True)
    image.write_text("one")
    look.look()
    first = files.read_json(layout.OUTSIDE)["../photos-C"]
    image.write_text("two")
    look.look()
    assert files.read_json(layout.OUTSIDE)["../photos-C"] != first
    image.write_text("one")
    look.look()
    assert files.read_json(layout.OUTSIDE)["../photos-C"] == first


def test_what_look_notes_is_what_resolve_uses() -> None:
    """Otherwise a change would be seen by one and not by the other."""
    Path("params.yaml").write_text(
        PARAMS.replace("tasks: [], variants: []", "tasks: [t], variants: [v], baseline: v")
        + "tasks: {t: {dataset: digits, model: resnet8, recipe: {epochs: 1}}}\nvariants: {v: {method: batch_norm}}\n"
        + "corruptions: {source: '../data/{dataset}'}\n"
    )
    Path("../data/digits").mkdir()
    Path("../data/digits/labels.npy").write_text("x")
    look.look()
    noted = files.read_json(layout.OUTSIDE)
    assert set(noted) == {"../data", "../data/digits"}
    values = resolve.resolve().files()
    assert values["datasets/photos"]["outside"] == files.hash_of({"../data": noted["../data"]})
    assert "outside" not in values["datasets/digits"]
    assert values["corruptions"]["outside"] == files.hash_of({"../data/digits": noted["../data/digits"]})
