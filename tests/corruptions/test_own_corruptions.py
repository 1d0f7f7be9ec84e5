"""A corruption in a file of its own: the one of docs/extending.md, as it is written there, and what can be wrong with one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from normbench.corruptions import NAMES, corrupt, export, registry
from normbench.corruptions import files as corrupted
from normbench.corruptions.files import write_corrupted
from normbench.corruptions.imagecorruptions_engine import corrupt_with_imagecorruptions
from normbench.corruptions.published import copy_published
from normbench.data.bound import Corrupted
from normbench.suite import corrupt as stage
from normbench.suite import resolve
from normbench.system import files, layout
from normbench.system.errors import UserError
from tests.support.scenes import prepared

ROOT = Path(__file__).resolve().parents[2]
SALT = "my_corruptions/salt.py:salt"


def example() -> str:
    """The file that the section on corruptions shows."""
    text = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    section = re.split(r"(?m)^## ", text.split("\n## A corruption\n", 1)[1])[0]
    (block,) = re.findall(r"(?s)```python\n(.*?)```", section)
    return block


@pytest.fixture
def folder(tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the example's file and the prepared dataset `scenes`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "my_corruptions/salt.py"
    path.parent.mkdir()
    path.write_text(example(), encoding="utf-8")
    prepared(layout.DATA / "scenes", images)
    return tmp_path


def own(folder: Path, name: str, text: str) -> str:
    """The reference of a corruption in a new file, which has `text` after the imports."""
    path = folder / f"my_corruptions/{name}.py"
    head = "import numpy as np\nfrom normbench.corruptions.registry import corruption\nfive = (1, 2, 3, 4, 5)\n"
    path.write_text(head + text, encoding="utf-8")
    return f"my_corruptions/{name}.py"


@pytest.mark.usefixtures("folder")
def test_the_example_does_what_it_says(images: np.ndarray) -> None:
    many = np.concatenate([images] * 20)
    for severity, share in enumerate((0.01, 0.02, 0.04, 0.08, 0.16), 1):
        made = corrupt(many, SALT, severity, seed=5)
        white, changed = (made == 255).all(axis=3), (made != many).any(axis=3)
        assert (white | ~changed).all()
        black = (many == 0).all(axis=(1, 2, 3))
        pixels = white[black].size
        assert abs(white[black].mean() - share) < 5 * (share / pixels) ** 0.5
        np.testing.assert_array_equal(corrupt(many[7:30], SALT, severity, 5, np.arange(7, 30)), made[7:30])
    assert corrupt(images[..., :1], SALT, 3).shape == images[..., :1].shape
    assert SALT not in NAMES


@pytest.mark.usefixtures("folder")
def test_the_pipeline_makes_its_images(images: np.ndarray) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    start, end = text.index("\ncorruptions:"), text.index("\n\n", text.index("\ncorruptions:"))
    chosen = f"\ncorruptions:\n  names: [fog, {SALT}]\n  severities: [2, 5]\n"
    Path("params.yaml").write_text(text[:start] + chosen + text[end:], encoding="utf-8")
    resolved = resolve.resolve(Path("params.yaml"))
    wanted = resolved.corruptions
    assert wanted["names"] == ["fog", "salt"]
    assert wanted["references"] == {"salt": SALT}
    files.write_json(layout.RESOLVED / "corruptions.json", wanted)
    stage.corrupt("scenes")
    made = layout.CORRUPTED / "scenes"
    assert sorted(path.name for path in made.glob("*.npy")) == ["fog.npy", "labels.npy", "salt.npy"]
    levels = [corrupt(images, SALT, level, wanted["seed"]) for level in (2, 5)]
    np.testing.assert_array_equal(np.load(made / "salt.npy"), np.concatenate(levels))
    meta = files.read_json(made / "meta.json")
    assert (meta["names"], set(meta["sha256"])) == (["fog", "salt"], {"fog", "salt"})
    assert meta["own"] == registry.own({"salt": SALT})
    assert Corrupted.model_validate(meta | {"path": str(made)}).own == meta["own"]

    path = Path("my_corruptions/salt.py")
    path.write_text(path.read_text() + "\n# A comment.\n")
    assert resolve.resolve(Path("params.yaml")) == resolved
    path.write_text(path.read_text().replace("np.uint8(255)", "np.uint8(254)"))
    before, after = (each.code["corrupt"] for each in (resolved, resolve.resolve(Path("params.yaml"))))
    assert after["corruptions"]["salt"] != before["corruptions"]["salt"]
    assert after["corruptions"]["fog"] == before["corruptions"]["fog"]


def test_params_say_what_is_wrong(folder: Path) -> None:
    clash = own(folder, "clash", "@corruption(constants=five)\ndef fog(images, c):\n    return images\n")
    other = own(folder, "other", "@corruption(constants=five)\ndef salt(images, c):\n    return images\n")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    start, end = text.index("\ncorruptions:"), text.index("\n\n", text.index("\ncorruptions:"))
    names = f"[fog, {clash}:fog, {SALT}, {other}:salt, my_corruptions/slat.py:salt]"
    Path("params.yaml").write_text(text[:start] + f"\ncorruptions:\n  names: {names}\n" + text[end:], encoding="utf-8")
    with pytest.raises(UserError) as caught:
        resolve.resolve(Path("params.yaml"))
    first, second, third = str(caught.value).splitlines()
    assert f"corruptions.names.1 = '{clash}:fog': " in first
    assert first.endswith(f"corruption '{clash}:fog': normbench has a fog too; rename the function")
    assert second.endswith(f"corruptions '{SALT}' and '{other}:salt' have the same name; rename one function")
    assert third.endswith("no such file my_corruptions/slat.py; did you mean 'my_corruptions/salt.py'?")


def test_an_engine_without_it_is_refused_by_resolve(folder: Path) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    start, end = text.index("\ncorruptions:"), text.index("\n\n", text.index("\ncorruptions:"))
    chosen = f"\ncorruptions:\n  engine: imagecorruptions\n  names: [fog, {SALT}]\n"
    Path("params.yaml").write_text(text[:start] + chosen + text[end:], encoding="utf-8")
    with pytest.raises(UserError) as caught:
        resolve.resolve(Path("params.yaml"))
    lines = [line for line in str(caught.value).splitlines() if "corruptions.names" in line]
    assert len(lines) == 1
    assert f"corruptions.names.1 = '{SALT}': imagecorruptions has no corruption '{SALT}': " in lines[0]


def test_an_export_makes_it_again_where_its_code_has_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(
        corrupted, "corrupt", lambda given, name, *rest: (made.append(name), corrupt(given, name, *rest))[1]
    )
    for _ in range(2):
        export.export("scenes", folder / "out", ["contrast", SALT], [1])
    assert made == ["contrast", SALT]
    path = folder / "my_corruptions/salt.py"
    path.write_text(path.read_text().replace("np.uint8(255)", "np.uint8(254)"))
    export.export("scenes", folder / "out", ["contrast"], [1])
    assert made == ["contrast", SALT]
    export.export("scenes", folder / "out", [SALT, "contrast"], [1])
    assert made == ["contrast", SALT, SALT]
    assert sorted(file.name for file in (folder / "out").glob("*.npy")) == ["contrast.npy", "labels.npy", "salt.npy"]
    meta = files.read_json(folder / "out/meta.json")
    assert meta["own"] == registry.own({"salt": SALT, "contrast": "contrast"})
    assert set(meta["sha256"]) == {"salt", "contrast"}


def test_published_images_of_it_are_taken(folder: Path, images: np.ndarray) -> None:
    Path("published").mkdir()
    arrays = np.concatenate([corrupt(images, SALT, level) for level in (1, 2, 3, 4, 5)])
    np.save("published/salt.npy", arrays)
    np.save("published/labels.npy", np.tile(np.load(layout.DATA / "scenes/test_labels.npy"), 5))
    copy_published(layout.DATA / "scenes", folder / "out", [SALT], [1, 2, 3, 4, 5], Path("published"))
    np.testing.assert_array_equal(np.load(folder / "out/salt.npy"), arrays)


def test_a_file_of_the_package_needs_no_entry_elsewhere(folder: Path) -> None:
    """The package is told of another folder, in which the file lies as it would in its own."""
    code = f"""
import numpy as np
from normbench import corruptions

corruptions.__path__.append({str(folder / "my_corruptions")!r})
assert corruptions.NAMES == (*corruptions.MAIN, *corruptions.EXTRA, "salt")
images = np.zeros((4, 32, 32, 3), np.uint8)
assert set(np.unique(corruptions.corrupt(images, "salt", 5))) == {{0, 255}}
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "@corruption(constants=five[:4])\ndef dust(images, c): ...",
            "{}:4 cannot be imported: ValueError: 4 constants for cifar: a corruption needs one for each of 5 severities",
        ),
        (
            "@corruption(constants={'cifar': five})\ndef dust(images, c): ...",
            "{}:4 cannot be imported: ValueError: constants for cifar: a corruption needs cifar, tiny_imagenet, imagenet",
        ),
        (
            "@corruption(constants=five)\ndef labels(images, c): ...",
            "{}:4 cannot be imported: ValueError: a corruption cannot be called labels: labels.npy holds the labels of the "
            "images",
        ),
        (
            "@corruption(constants=five)\ndef dirt(images, c): ...",
            "{} registers no corruption dust; did you mean 'dirt'?",
        ),
        ("dust = 3", "{} registers no corruption dust; no name is valid here"),
        (
            "@corruption(constants=five)\ndef dust(images, c):\n    return images / c",
            "corruption 'dust' made float64 of shape (6, 32, 32, 3): needs uint8 of shape (6, 32, 32, 3)",
        ),
        (
            "@corruption(constants=five)\ndef dust(images, c):\n    return images[0]",
            "corruption 'dust' made uint8 of shape (32, 32, 3): needs uint8 of shape (6, 32, 32, 3)",
        ),
    ],
)
def test_what_is_wrong_with_it_is_one_line(folder: Path, images: np.ndarray, text: str, line: str) -> None:
    path = own(folder, f"dust_{len(text)}", text)  # Each case is a module of its own.
    with pytest.raises(UserError) as caught:
        corrupt(images, f"{path}:dust", 2)
    assert str(caught.value) == line.format(path)


@pytest.mark.usefixtures("folder")
def test_the_package_imagecorruptions_does_not_have_it(images: np.ndarray) -> None:
    line = r"^imagecorruptions has no corruption '.*salt': "
    with pytest.raises(UserError, match=line):
        corrupt_with_imagecorruptions(images, SALT, 1)
    with pytest.raises(UserError, match=line):
        write_corrupted(layout.DATA / "scenes", Path("out"), [SALT], [1], 0, "imagecorruptions")
    with pytest.raises(UserError, match=line):
        export.export("scenes", Path("out"), [SALT], [1], engine="imagecorruptions")
    assert not Path("out").exists()
