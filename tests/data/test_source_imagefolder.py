"""Image files in folders: in both layouts, resized and cut, and refused in one line that names the file."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normbench.data import tree
from normbench.data.sources import imagefolder
from normbench.system.errors import UserError
from tests.support.prepared import by_hand, image, pets, prepared

RED, BLUE = (255, 0, 0), (0, 0, 255)

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture
def folders() -> str:
    return pets()


def test_imagefolder(folders: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    image("pets/train/dog/more/3.bmp", (77, 0, 0))  # at any depth
    Path("pets/train/dog/._0.png").write_bytes(b"what some systems leave beside an image")
    Path("pets/train/dog/boxes.txt").write_text("no image")
    arrays, meta = prepared("imagefolder", path=folders, image_size=8)
    assert arrays["train_labels"].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert arrays["test_labels"].tolist() == [0, 0, 1, 1]
    assert arrays["train_images"][:, 3, 3, 0].tolist() == [0, 10, 20, 0, 10, 20, 77]
    assert arrays["test_images"][2, 0, 0].tolist() == [0, 100, 50]
    assert meta["class_names"] == ["cat", "dog"]
    assert meta["origin"] == "pets (train, val)"
    assert meta["note"] == "left out: 1 hidden, 1 no image (.txt) (train/dog/boxes.txt, train/dog/._0.png)"
    assert f"mine: {meta['note']}\n" in capsys.readouterr().out
    assert meta["sha256"] is None
    assert meta["fingerprint"] == by_hand(arrays)
    monkeypatch.setattr(imagefolder, "BATCH", 2)  # as a set larger than the memory is read
    Path("pets/val").rename("pets/test")
    again = prepared("imagefolder", path=folders, image_size=8)[1]
    assert again == meta | {"origin": "pets (train, test)"}


def test_imagefolder_resizes_and_cuts_the_middle(folders: str) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, :20], wide[:, 20:40], wide[:, 40:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    Image.fromarray(wide).save("pets/train/cat/0.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save("pets/train/cat/1.png")
    Image.fromarray(wide[..., 1]).save("pets/train/cat/2.png")  # grey
    arrays, _ = prepared("imagefolder", path=folders, image_size=10)
    for index in (0, 1):
        assert (arrays["train_images"][index, 2:8, 2:8] == (0, 255, 0)).all()
    assert (arrays["train_images"][2, 2:8, 2:8] == 255).all()


def test_imagefolder_laid_out_as_tiny_imagenet() -> None:
    lines = []
    for label, name in enumerate(("n01443537", "n01629819")):
        for index in range(2):
            image(f"tiny/train/{name}/images/{name}_{index}.JPEG", (200 * label, 30 * index, 90 * label), (64, 64))
            lines.append(f"val_{2 * index + label}.JPEG\t{name}\t0\t0\t62\t62")
            image(f"tiny/val/images/val_{2 * index + label}.JPEG", (200 * label, 0, 90), (64, 64))
        Path(f"tiny/train/{name}/{name}_boxes.txt").write_text("")
    image("tiny/test/images/test_0.JPEG", (0, 0, 0))
    Path("tiny/val/val_annotations.txt").write_text("\n".join(lines) + "\n")
    arrays, meta = prepared("imagefolder", path="tiny", image_size=32)
    assert arrays["train_labels"].tolist() == arrays["test_labels"].tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(arrays["test_images"][:, 5, 5, 0], [0, 0, 200, 200], atol=3)
    assert meta["classes"] == 2
    boxes = "train/n01443537/n01443537_boxes.txt, train/n01629819/n01629819_boxes.txt"
    assert meta["note"] == f"left out: 2 no image (.txt), 1 outside of the splits ({boxes}, test/)"
    Path("tiny/val/val_annotations.txt").write_text("val_0.JPEG\tn01443538\t0\t0\t62\t62\n")
    with pytest.raises(UserError, match="line 1: no class 'n01443538' in train; did you mean 'n01443537'"):
        prepared("imagefolder", path="tiny", image_size=32)
    Path("tiny/val/val_annotations.txt").write_text("val_7.JPEG\tn01443537\t0\t0\t62\t62\n")
    with pytest.raises(
        UserError, match=r"line 1: no image 'val_7\.JPEG' in tiny/val/images; did you mean 'val_\d\.JPEG'"
    ):
        prepared("imagefolder", path="tiny", image_size=32)


def read(path: str, **given: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and facts of a folder whose images may have one value only."""
    normalization = {"mean": [0.5] * 3, "std": [0.5] * 3}
    return prepared("imagefolder", path=path, **({"image_size": 8} | normalization | given))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"val_0.JPEG n01443537\n", "line 1 is not a file and a class with a tab between"),
        (b"val_0.JPEG\ta\n\nval_0.JPEG\ta\n", r"line 3: 'val_0\.JPEG' stands here twice"),
        (b"../../train/a/0.png\ta\n", r"line 1: no image '\.\./\.\./train/a/0\.png' in photos/val/images"),
        (b"val_0.JPEG\t\xff\n", r"1: byte 0xFF .* is not UTF-8"),
        (b"\n \n", "no image is listed"),
    ],
)
def test_lines_of_val_annotations_that_are_wrong(content: bytes, message: str) -> None:
    image("photos/train/a/0.png", RED)
    image("photos/val/images/val_0.JPEG", RED)
    annotations = Path("photos/val/val_annotations.txt")
    annotations.write_bytes("\ufeffval_0.JPEG\ta\t0\r\n\r\n".encode())  # as an editor of Windows leaves it
    image("photos/val/images/val_1.JPEG", RED)
    arrays, meta = read("photos")
    assert arrays["test_labels"].tolist() == [0]
    assert meta["note"] == "left out: 1 not in val_annotations.txt (val/images/val_1.JPEG)"
    annotations.write_bytes(content)
    with pytest.raises(UserError, match=rf"photos/val/val_annotations\.txt: ?{message}") as caught:
        read("photos")
    assert "\n" not in str(caught.value)


def test_images_are_known_by_their_content_and_all_that_is_left_out_is_named() -> None:
    for split in ("train", "test"):
        image(f"photos/{split}/a/0.GIF", RED)
        image(f"photos/{split}/b/1.jfif", BLUE)
    Image.new("RGB", (9, 9), BLUE).save("photos/train/b/0000", format="PNG")  # no ending
    Image.new("RGB", (9, 9), RED).save("photos/train/a/2.avif")
    for index in range(4):
        Path(f"photos/train/a/{index}.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    Path("photos/train/b/.ipynb_checkpoints").mkdir()
    image("photos/train/b/.ipynb_checkpoints/0-checkpoint.png", RED)
    image("photos/train/.ipynb_checkpoints/0.png", RED)
    image("photos/__MACOSX/train/a/._0.png", RED)
    image("photos/test/a/__MACOSX/0.png", BLUE)
    for name in ("photos/.DS_Store", "photos/test/a/Thumbs.db", "photos/test/a/desktop.ini"):
        Path(name).write_bytes(b"x")
    image("photos/train/loose.png", RED)
    arrays, meta = read("photos", note="From a phone.")
    assert meta["class_names"] == ["a", "b"]
    assert arrays["train_labels"].tolist() == [0, 0, 1, 1]
    assert arrays["train_images"][[2, 3], 4, 4].argmax(1).tolist() == [2, 2]
    assert meta["note"] == (
        "From a phone.; left out: 7 hidden, 4 no image (.heic), 1 outside of the class folders (train/loose.png,"
        " train/a/0.heic, train/a/1.heic, train/a/2.heic, train/a/3.heic, ...)"
    )
    for path in Path("photos/train/a").glob("*.[aG]*"):
        path.unlink()
    with pytest.raises(UserError, match=r"photos/train/a: no image in it; left out there: 4 no image \(\.heic\)$"):
        read("photos")


def test_what_was_changed_in_reading_is_in_the_note() -> None:
    for split in ("train", "test"):
        for index in range(2):
            Path(f"icons/{split}/a").mkdir(parents=True, exist_ok=True)
            Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(f"icons/{split}/a/{index}.png")
            image(f"icons/{split}/b/{index}.png", BLUE)
    arrays, meta = read("icons")
    assert (arrays["train_images"][:2] == 255).all()
    names = ", ".join(f"{split}/a/{index}.png" for split in ("train", "test") for index in range(2))
    assert meta["note"] == f"transparent pixels, shown on white: 4 images ({names})"
    arrays, meta = read("icons", background="black")
    assert (arrays["train_images"][:2] == 0).all()


def test_a_class_name_in_two_unicode_forms_is_one_class() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for index in range(2):
        image(f"places/train/{composed}/{index}.png", (9 * index, 0, 0))
        image(f"places/train/bar/{index}.png", BLUE)
        image(f"places/test/{decomposed}/{index}.png", (90 + index, 0, 0))
        image(f"places/test/bar/{index}.png", BLUE)
    arrays, meta = read("places")
    assert meta["class_names"] == ["bar", composed]
    assert arrays["test_labels"].tolist() == [0, 0, 1, 1]
    assert arrays["test_images"][2:, 0, 0, 0].tolist() == [90, 91]
    image(f"places/train/{decomposed}/2.png", RED)
    with pytest.raises(UserError) as caught:
        read("places")
    assert str(caught.value) == (
        "dataset 'mine': places/train: two folders of one name in different Unicode forms, 'cafe\\u0301' and 'caf\\xe9'"
    )


def test_class_names_that_differ_in_case_are_classes_with_a_note() -> None:
    for name in ("Cat", "cat"):
        image(f"pets/train/{name}/0.png", RED)
        image(f"pets/test/{name}/0.png", BLUE)
    _, meta = read("pets")
    assert meta["class_names"] == ["Cat", "cat"]
    assert meta["note"] == "'Cat' and 'cat' are different classes"
    shutil.rmtree("pets/train/Cat")
    with pytest.raises(UserError, match=r"pets/train: class 'Cat' is missing: test has it, .*; did you mean 'cat'"):
        read("pets")


def test_a_class_name_that_is_no_text_is_an_error_by_name() -> None:
    image("pets/train/a/0.png", RED)
    image("pets/test/a/0.png", RED)
    os.mkdir(b"pets/train/caf\xe9")
    with pytest.raises(UserError, match=r"pets/train/caf\\udce9: the name of a class must be text in UTF-8"):
        read("pets")


def test_a_class_without_test_images_has_a_note(folders: str) -> None:
    for index in range(2):
        Path(f"pets/val/cat/{index}.png").unlink()
    arrays, meta = read(folders)
    assert (meta["classes"], arrays["test_labels"].tolist()) == (2, [1, 1])
    assert meta["note"] == "1 of 2 classes have no test image (cat)"
    shutil.rmtree("pets/val/cat")
    assert read(folders)[1] == meta
    for index in range(2):
        Path(f"pets/val/dog/{index}.png").unlink()
    with pytest.raises(UserError, match="pets/val: no image in it"):
        read(folders)


def test_links_to_folders_are_followed_and_loops_are_not(folders: str) -> None:
    image("elsewhere/5.png", (50, 0, 0))
    Path("pets/train/cat/more").symlink_to(Path("elsewhere").resolve())
    Path("pets/train/cat/loop").symlink_to(".")
    Path("pets/train/dog/up").symlink_to(Path("pets").resolve())
    Path("pets/train/dog/nowhere").symlink_to("nothing")
    Path("pets/train/dog/ring").symlink_to("ring")
    arrays, meta = read(folders)
    assert arrays["train_images"][:4, 0, 0, 0].tolist() == [0, 10, 20, 50]
    assert arrays["train_labels"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert meta["note"].startswith(
        "left out: 2 a link to a folder above, 1 a broken link (No such file or directory), "
    )
    Path("pets/train/dog/0.JPG").symlink_to("nothing")
    with pytest.raises(UserError, match=r"pets/train/dog/0\.JPG: a broken link \(No such file or directory\)$"):
        read(folders)


def test_the_order_is_that_of_the_names(folders: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("é", "e\u0301a", "f/x", "f-", "f.b", "Z", "10", "9"):
        image(f"pets/train/cat/{name}.png", RED)
    expected = sorted(
        Path("pets/train/cat").rglob("*.png"), key=lambda p: unicodedata.normalize("NFC", str(p)).split("/")
    )
    assert [entry.path for entry in tree.walk(Path("pets/train/cat"))] == expected

    def backwards(folder: Path) -> Any:
        return contextlib.nullcontext(reversed(list(scandir(folder))))

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", backwards)
    assert [entry.path for entry in tree.walk(Path("pets/train/cat"))] == expected


def test_a_full_disk_is_one_line(folders: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are written, and not mapped into the memory, where a full disk is a signal that ends the process."""
    monkeypatch.setattr(np.lib.format, "open_memmap", None)
    image("pets/train/cat/9.png", RED, (400, 400))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            read(folders, image_size=200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list(Path("build/data").iterdir()) == []


def test_imagefolder_errors(folders: str) -> None:
    def refused(message: str, **given: Any) -> None:
        with pytest.raises(UserError, match=message) as caught:
            prepared("imagefolder", **({"path": folders, "image_size": 8} | given))
        assert "\n" not in str(caught.value)
        assert list(Path("build/data").iterdir()) == []

    refused("needs `image_size`", image_size=None)
    refused("elsewhere: no such folder$", path="elsewhere")
    Path("pets.zip").write_bytes(b"PK")
    refused("pets.zip: a file; unpack it$", path="pets.zip")
    refused("pets/train/train: no such folder; .* here are cat, dog: move a part of each class", path="pets/train")
    Path("pets/val/cat/1.png").write_bytes(b"not an image")
    refused("pets/val/cat/1.png: not an image$")
    content = Path("pets/train/dog/0.png").read_bytes()
    Path("pets/val/cat/1.png").write_bytes(content[: len(content) // 2])
    refused("pets/val/cat/1.png: not a readable image: ")
    Path("pets/val/cat").rename("pets/val/bird")
    refused("pets/train: class 'bird' is missing: val has it, and test classes must be among the training classes")
    Path("pets/train/bird").mkdir()
    refused("pets/train/bird: no image in it$")
    Path("pets/val").rename("pets/Validation")
    refused("pets/test: no such folder; .* here are Validation, train: rename them")
